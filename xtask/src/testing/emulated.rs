//! Tier 3: runs the test programs of tier 1 in an emulated machine, and reports what came of each.

use std::{env, path::Path};

use anyhow::Result;

use super::{
    Program, SETTINGS, Tier,
    report::{ProgramResult, Report, announce},
};
use crate::{
    kernels::{Console, Initramfs, Job, Kernel, Machine, Seen, describe_exit_code},
    setup::Ready,
};

/// The cases of a property test in an emulated machine, unless the user wants another number. Emulation is slow, and the
/// host's own kernel has been through all of them.
const CASES_IN_EMULATION: &str = "2000";

/// Runs test programs in a machine with another kernel.
pub(super) fn run(
    kernel: Kernel,
    image: &Path,
    ready: &Ready,
    programs: &[Program],
    filters: &[String],
    report: &mut Report,
) -> Result<()> {
    let mut variables = vec![
        ("PROPTEST_CASES", CASES_IN_EMULATION.to_owned()),
        // For tests that have other numbers to reduce.
        ("LAB_EMULATED", "1".to_owned()),
    ];
    for name in SETTINGS {
        variables.extend(env::var(name).ok().map(|value| (name, value)));
    }
    let job = Job {
        programs: programs
            .iter()
            .map(|program| program.executable.clone())
            .collect(),
        arguments: filters.to_vec(),
        variables,
    };
    let machine = Machine::boot(&ready.emulator, image, Initramfs::pack(&job, &ready.busybox)?)?;

    let tier = Tier::Kernel(kernel);
    let mut console = Console::default();
    let mut results: Vec<_> = programs
        .iter()
        .map(|program| (format!("{} on Linux {}", program.name, kernel.series()), None))
        .collect();
    let mut running = ProgramResult::default();
    let end = machine.watch(|line| match console.see(line) {
        Seen::Booted(release) => println!("\nmachine with Linux {release}"),
        Seen::Start(index) => {
            running = ProgramResult::default();
            if let Some((name, _)) = results.get(index) {
                announce(tier, name);
            }
        }
        Seen::Output(line) => {
            println!("{line}");
            running.see(line);
        }
        Seen::End(index, code) => {
            if let Some((_, ended)) = results.get_mut(index) {
                *ended = Some((std::mem::take(&mut running), code));
            }
        }
        Seen::Other => {}
    })?;
    if results.iter().any(|(_, ended)| ended.is_none()) {
        println!(
            "\nLinux {}: {end}. The end of its console:\n{}",
            kernel.series(),
            console.end()
        );
    }
    for (name, ended) in results {
        match ended {
            Some((result, code)) => report.add(tier, &name, result, code == 0, &describe_exit_code(code)),
            None => report.add(tier, &name, std::mem::take(&mut running), false, &end),
        }
    }
    Ok(())
}
