//! Running other programs: what failed, with which arguments, and as which user.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// The workspace's root directory.
pub(crate) fn workspace() -> PathBuf {
    // Cargo sets the variable at run time too; it stays right when the clone is moved.
    let crate_directory =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    crate_directory
        .parent()
        .map_or_else(|| crate_directory.clone(), Path::to_path_buf)
}

/// The cargo that runs this xtask, to be run in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Where cargo puts what it builds, whichever way the user has configured that.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = capture(cargo().args(["metadata", "--no-deps", "--format-version", "1", "--quiet"]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).context("`cargo metadata` printed no valid JSON")?;
    let directory = metadata["target_directory"]
        .as_str()
        .context("`cargo metadata` printed no `target_directory`: a newer cargo than this xtask knows?")?;
    Ok(directory.into())
}

/// Runs a command whose output the user sees.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{}` failed ({status})", display(command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to stdout; what it wrote to stderr is shown only in the error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({}):\n{}",
            abridged(&display(command)),
            output.status,
            indent(&last_lines(said.trim(), 8))
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command whose failure means something to the caller, and returns all that came of it.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    // Standard input stays what the caller set; `Command::output` would set the other two by itself.
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.output().with_context(|| cannot_start(command))
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", display(command))
}

/// A command the way a user would type it.
pub(crate) fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{word}'")
    }
}

/// A long command's beginning, which tells enough in an error.
fn abridged(command: &str) -> String {
    match command.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command.into(),
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// An indented line for each item, the first one preceded by a line break.
pub(crate) fn list(items: &[String]) -> String {
    items.iter().flat_map(|item| ["\n  - ", item]).collect()
}

/// The program's file in one of the directories of `PATH`, or where administrators' programs are: those directories are
/// missing from an ordinary user's `PATH` on Debian.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

/// Whether the path is a file that somebody may execute.
pub(crate) fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The effective user's id.
pub(crate) fn user_id() -> Result<u32> {
    Ok(fs::metadata("/proc/self")
        .context("cannot read /proc/self: is /proc mounted?")?
        .uid())
}

/// A command that will run as root: itself if we are root, through sudo otherwise.
///
/// The variables are named on sudo's command line, since sudo clears the environment.
pub(crate) fn as_root(
    variables: &[(&str, OsString)],
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Command> {
    let mut command;
    if user_id()? == 0 {
        command = Command::new(program);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
    } else if find_program("sudo").is_some() {
        command = Command::new("sudo");
        if !variables.is_empty() {
            command.arg("env");
        }
        for (name, value) in variables {
            let mut assignment = OsString::from(name);
            assignment.push("=");
            assignment.push(value);
            command.arg(assignment);
        }
        command.arg(program);
    } else {
        let mut command = Command::new(program);
        command.args(arguments);
        bail!(
            "this needs root and there is no sudo; run as root: {}",
            display(&command)
        );
    }
    command.args(arguments);
    Ok(command)
}

/// Removes a directory and what it holds, if it is there.
pub(crate) fn remove_directory(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_so_that_it_can_be_pasted() {
        let mut command = Command::new("mount");
        command.args(["-t", "bpf", "a b", ""]);
        assert_eq!(display(&command), "mount -t bpf 'a b' ''");
    }

    #[test]
    fn a_failure_shows_what_the_command_said() {
        let error = capture(Command::new("sh").args(["-c", "echo why >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("    why"),
            "{error}"
        );
    }

    #[test]
    fn only_the_end_of_a_long_explanation_is_shown() {
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }

    #[test]
    fn a_long_command_is_abridged_in_errors() {
        assert_eq!(abridged("mount -t bpf"), "mount -t bpf");
        assert_eq!(abridged(&"ä".repeat(121)), "ä".repeat(120) + "…");
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("a-program-that-nobody-has"), None);
    }
}
