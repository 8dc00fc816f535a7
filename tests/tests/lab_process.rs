//! Processes and closures that run in a lab.

use std::os::unix::process::ExitStatusExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use lab::{Lab, Process, wait_until};

const TIMEOUT: Duration = Duration::from_secs(10);

fn lab() -> Result<Lab> {
    Lab::builder().balancers(0).start()
}

/// Runs a shell script on the lab's client.
fn script(lab: &Lab, script: &str) -> Result<Process> {
    let client = &lab.clients()[0];
    client.spawn("script", client.command("sh")?.args(["-c", script]))
}

#[test]
fn a_process_runs_in_its_namespace_and_its_output_is_kept() -> Result<()> {
    let lab = lab()?;
    let mut process = script(&lab, "ip -brief -4 address show dev eth0; echo done >&2")?;
    process.wait_for_line("done", TIMEOUT)?;
    assert!(process.wait_for_line("eth0", TIMEOUT)?.contains("10.77.0.201/24"));
    assert!(process.wait(TIMEOUT)?.success());
    assert!(process.log().starts_with(lab.directory()));
    Ok(())
}

#[test]
fn an_early_end_is_reported_at_once_with_the_end_of_the_output() -> Result<()> {
    let lab = lab()?;
    let error = script(&lab, "echo no such key >&2; exit 2")?
        .wait_for_line("ready", TIMEOUT)
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("script on client1") && error.contains("to print \"ready\""),
        "{error}"
    );
    assert!(
        error.contains("it has ended (exit status: 2)") && error.contains("no such key"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_line_that_does_not_come_is_reported_with_the_output_so_far() -> Result<()> {
    let lab = lab()?;
    let mut process = script(&lab, "echo starting; exec sleep 1000")?;
    process.wait_for_line("starting", TIMEOUT)?;
    let error = process
        .wait_for_line("ready", Duration::from_millis(20))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("it has not within 20ms") && error.contains("    starting"),
        "{error}"
    );
    Ok(())
}

#[test]
fn terminate_is_polite_and_gives_the_status() -> Result<()> {
    let lab = lab()?;
    let mut process = script(
        &lab,
        "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done",
    )?;
    process.wait_for_line("ready", TIMEOUT)?;
    assert_eq!(process.terminate(TIMEOUT)?.code(), Some(3));
    assert!(process.output()?.contains("bye"));
    assert_eq!(process.terminate(TIMEOUT)?.code(), Some(3));
    Ok(())
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_which_is_an_error() -> Result<()> {
    let lab = lab()?;
    let mut process = script(&lab, "trap '' TERM; echo ready; while :; do sleep 0.01; done")?;
    process.wait_for_line("ready", TIMEOUT)?;
    let error = process
        .terminate(Duration::from_millis(50))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("did not end within 50ms of SIGTERM and was killed"),
        "{error}"
    );
    assert_eq!(process.exit_status()?.and_then(|status| status.signal()), Some(9));
    Ok(())
}

#[test]
fn kill_includes_the_children_of_a_process() -> Result<()> {
    let lab = lab()?;
    let mut process = script(&lab, "sleep 1000 & echo child $!; wait")?;
    let line = process.wait_for_line("child ", TIMEOUT)?;
    let child = Path::new("/proc")
        .join(line.trim_start_matches("child "))
        .join("ns/net");
    assert!(child.exists());
    process.kill()?;
    wait_until("the child's end", TIMEOUT, || !child.exists())
}

#[test]
fn a_failing_command_is_an_error_with_its_own_message() -> Result<()> {
    let lab = lab()?;
    let client = &lab.clients()[0];
    assert!(client.run(&["ip", "route"])?.contains("10.77.0.0/24 dev eth0"));
    let error = client
        .run(&["ip", "link", "show", "dev", "eth9"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`ip link show dev eth9` on client1 failed"),
        "{error}"
    );
    assert!(error.contains("Device \"eth9\" does not exist"), "{error}");
    let error = client.run(&["no-such-program"]).unwrap_err().to_string();
    assert_eq!(error, "cannot run `no-such-program` on client1");
    Ok(())
}

#[test]
fn a_panic_inside_a_namespace_reaches_the_caller() -> Result<()> {
    let lab = lab()?;
    let result = panic::catch_unwind(AssertUnwindSafe(|| lab.clients()[0].enter(|| panic!("inside"))));
    assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
    Ok(())
}

#[test]
fn nothing_can_be_done_in_a_lab_that_is_down() -> Result<()> {
    let lab = lab()?;
    let client = lab.clients()[0].clone();
    drop(lab);
    let error = client.enter(|| ()).unwrap_err().to_string();
    assert!(error.contains("has the lab been taken down?"), "{error}");
    Ok(())
}
