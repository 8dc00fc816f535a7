//! Running `ip`, many commands at a time.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs the commands in the namespace (in this process's own for `None`) with one `ip -batch`, which is several times
/// faster than one process each. All are tried; the error tells of every one that failed. `ip` holds `witness` as its
/// standard output, on which these commands print nothing.
pub(crate) fn batch(namespace: Option<&str>, commands: &[String], witness: Stdio) -> Result<()> {
    let mut ip = Command::new("ip");
    if let Some(namespace) = namespace {
        ip.args(["-n", namespace]);
    }
    let mut ip = ip
        .args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(witness)
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`, which the lab needs: install iproute2")?;
    if let Some(mut stdin) = ip.stdin.take() {
        // A failure here means that `ip` has ended early, and then its own message is the better one.
        let _ = stdin.write_all((commands.join("\n") + "\n").as_bytes());
    }
    let output = ip.wait_with_output().context("cannot wait for `ip`")?;
    if output.status.success() {
        return Ok(());
    }
    let place = namespace
        .map(|name| format!(" in namespace {name}"))
        .unwrap_or_default();
    bail!(
        "`ip`{place} failed ({}): {}",
        output.status,
        explain(&String::from_utf8_lossy(&output.stderr), commands)
    )
}

/// The messages of `ip`, with the commands in place of their line numbers ("Command failed -:3").
fn explain(stderr: &str, commands: &[String]) -> String {
    let lines = stderr.lines().filter(|line| !line.trim().is_empty()).map(|line| {
        let number = line
            .strip_prefix("Command failed -:")
            .and_then(|number| number.trim().parse::<usize>().ok());
        match number.and_then(|number| commands.get(number.checked_sub(1)?)) {
            Some(command) => format!("(by `ip {command}`)"),
            None => line.trim().to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_the_command_that_failed() {
        let commands = ["link set lo up".to_owned(), "link set eth9 up".to_owned()];
        assert_eq!(
            explain("Cannot find device \"eth9\"\nCommand failed -:2\n", &commands),
            "Cannot find device \"eth9\" (by `ip link set eth9 up`)"
        );
        assert_eq!(explain("Command failed -:9\n", &commands), "Command failed -:9");
    }
}
