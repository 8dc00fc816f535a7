//! `cargo xtask test`: the tests of tiers 0 to 2, and of tier 3 on demand, one after the other whatever fails, and one summary line.
//!
//! Cargo builds the test programs as the calling user; this module runs them itself, since those of tiers 1 and 2 have
//! to run as root, and since a program that crashes prints no result that could be counted.

mod emulated;
mod report;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};
use report::Report;
use serde_json::Value;

use crate::{
    command,
    kernels::Kernel,
    setup::{self, Ready, Scope},
};

/// The package whose integration tests need root.
const LAB: &str = "lab";

/// Packages with a library whose documentation has examples to test.
const LIBRARIES: [&str; 3] = ["lb-common", "lb-ctl", LAB];

/// Variables that change how tests run and what they tell.
const SETTINGS: [&str; 4] = [
    "RUST_BACKTRACE",
    "RUST_LOG",
    "RUST_TEST_THREADS",
    "PROPTEST_CASES",
];

/// What a test needs, as DESIGN.md section 9 divides them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Pure,
    Packet,
    Lab,
    /// The tests of `Packet` on another kernel than the host's.
    Kernel(Kernel),
}

impl Tier {
    const fn number(self) -> u8 {
        match self {
            Self::Pure => 0,
            Self::Packet => 1,
            Self::Lab => 2,
            Self::Kernel(_) => 3,
        }
    }

    fn title(self) -> String {
        match self {
            Self::Pure => "0  unit and property tests".into(),
            Self::Packet => "1  packets through the XDP program".into(),
            Self::Lab => "2  processes in the lab".into(),
            Self::Kernel(kernel) => format!("3  packets on Linux {}", kernel.series()),
        }
    }
}

/// A test program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    tier: Tier,
    /// Package and target.
    name: String,
    executable: PathBuf,
    /// The package's directory, which tests expect to run in.
    directory: PathBuf,
}

/// Runs all tests whose names contain one of the filters, those of tier 1 also on these kernels.
pub(crate) fn run(filters: &[String], kernels: &[Kernel]) -> Result<ExitCode> {
    let ready = setup::run(if kernels.is_empty() {
        Scope::Lab
    } else {
        Scope::Kernels(kernels)
    })?;
    // The tests of the lab start the product's binaries.
    command::run(command::cargo().args(["build", "--workspace", "--bins"]))?;
    let mut programs = build()?;
    programs.sort_by(|a, b| (a.tier, &a.name).cmp(&(b.tier, &b.name)));

    let tiers = [Tier::Pure, Tier::Packet, Tier::Lab].into_iter();
    let mut report = Report::new(tiers.chain(kernels.iter().copied().map(Tier::Kernel)));
    for program in programs.iter().filter(|program| program.tier == Tier::Pure) {
        report.run(
            program.tier,
            &program.name,
            &mut program.command(&ready, filters)?,
        )?;
    }
    for package in LIBRARIES {
        let mut test = command::cargo();
        test.args(["test", "--quiet", "--doc", "--package", package, "--"])
            .args(filters);
        report.run(Tier::Pure, &format!("{package}: documentation"), &mut test)?;
    }
    for program in programs.iter().filter(|program| program.tier != Tier::Pure) {
        report.run(
            program.tier,
            &program.name,
            &mut program.command(&ready, filters)?,
        )?;
    }
    programs.retain(|program| program.tier == Tier::Packet);
    for (kernel, image) in &ready.kernels {
        emulated::run(*kernel, image, &ready, &programs, filters, &mut report)?;
    }

    println!("\n{}", report.table());
    println!("{}", report.summary());
    Ok(report.exit_code())
}

/// Builds the test programs of all packages.
fn build() -> Result<Vec<Program>> {
    let mut build = command::cargo();
    build.args([
        "test",
        "--workspace",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    // Only stdout is read: what the compiler has to say goes to the user's terminal.
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        anyhow::bail!("`{}` failed ({})", command::display(&build), output.status);
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("cargo printed no JSON: {line}")))
        .filter_map(|message: Result<Value>| message.map(|message| Program::parse(&message)).transpose())
        .collect()
}

impl Program {
    /// The test program that one of cargo's messages is about.
    fn parse(message: &Value) -> Option<Self> {
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            return None;
        }
        let executable = message["executable"].as_str()?;
        let directory = Path::new(message["manifest_path"].as_str()?).parent()?;
        let target = message["target"]["name"].as_str()?;
        let kind = message["target"]["kind"][0].as_str()?;
        let package = package_name(message["package_id"].as_str()?);
        let tier = match (package, kind == "test") {
            (LAB, true) if target.starts_with("packet_") => Tier::Packet,
            (LAB, true) => Tier::Lab,
            _ => Tier::Pure,
        };
        Some(Self {
            tier,
            name: format!("{package}: {kind} {target}"),
            executable: executable.into(),
            directory: directory.into(),
        })
    }

    fn command(&self, ready: &Ready, filters: &[String]) -> Result<Command> {
        let mut variables = ready.variables_of_lab();
        variables.push(("CARGO_MANIFEST_DIR", self.directory.clone().into()));
        let mut command = if self.tier == Tier::Pure {
            let mut command = Command::new(&self.executable);
            command.args(filters).envs(variables);
            command
        } else {
            for name in ["PATH"].into_iter().chain(SETTINGS) {
                variables.extend(env::var_os(name).map(|value| (name, value)));
            }
            command::as_root(&variables, &self.executable, filters)?
        };
        command.current_dir(&self.directory);
        Ok(command)
    }
}

/// The name in a package id such as `path+file:///clone/lb-ctl#0.1.0` or `path+file:///clone/tests#lab@0.1.0`.
fn package_name(id: &str) -> &str {
    let (source, fragment) = id.split_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _version)) => name,
        None => source.rsplit('/').next().unwrap_or(source),
    }
}

impl Ready {
    /// The environment of what runs in the lab.
    pub(crate) fn variables_of_lab(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LB_LAB_PYTHON", self.python.clone().into()),
            ("LB_LAB_PROMTOOL", self.promtool.clone().into()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(package: &str, kind: &str, target: &str) -> Value {
        json!({
            "reason": "compiler-artifact",
            "package_id": format!("path+file:///clone/{package}"),
            "manifest_path": "/clone/tests/Cargo.toml",
            "target": {"kind": [kind], "name": target},
            "profile": {"test": true},
            "executable": "/clone/target/debug/deps/x-1",
        })
    }

    #[test]
    fn the_file_name_of_an_integration_test_tells_its_tier() {
        let tier = |package, kind, target| Program::parse(&message(package, kind, target)).map(|p| p.tier);
        assert_eq!(tier("tests#lab@0.1.0", "test", "packet_ipv4"), Some(Tier::Packet));
        assert_eq!(tier("tests#lab@0.1.0", "test", "queries"), Some(Tier::Lab));
        assert_eq!(tier("tests#lab@0.1.0", "lib", "packet_ipv4"), Some(Tier::Pure));
        assert_eq!(tier("lb-ctl#0.1.0", "test", "packet_ipv4"), Some(Tier::Pure));
    }

    #[test]
    fn programs_run_in_their_packages_directory() {
        let program = Program::parse(&message("tests#lab@0.1.0", "test", "queries")).unwrap();
        assert_eq!(program.directory, Path::new("/clone/tests"));
        assert_eq!(program.name, "lab: test queries");
    }

    #[test]
    fn messages_about_other_things_are_passed_over() {
        let mut library = message("lb-ctl#0.1.0", "lib", "lb_ctl");
        library["profile"]["test"] = json!(false);
        assert_eq!(Program::parse(&library), None);
        assert_eq!(
            Program::parse(&json!({"reason": "build-finished", "success": true})),
            None
        );
    }
}
