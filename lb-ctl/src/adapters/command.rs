//! Runs the operator's programs.
//!
//! Each has a process group of its own, which is killed as a whole when its time is over or nobody waits for it any more; no standard
//! input, an environment of a few variables, and the end of its output is kept.

use std::{
    fmt, fs, io,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::{Child, Command as Process},
    time::timeout,
};

use crate::core::command::{Command, last_words};

/// Where programs that a script names without a path are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of the output is kept.
const KEPT: usize = 4096;

/// How much fits into a pipe, in reads of [`KEPT`].
const READS: usize = 16;

/// How long to wait for the end of a process that has been killed. One that hangs in the kernel ends when it can.
const KILLED: Duration = Duration::from_secs(1);

/// How a run has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub how: How,
    /// What it has said last, on one line.
    pub last_words: String,
}

/// How a program can end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// With the exit status 0.
    Succeeded,
    /// With another one.
    Status(i32),
    /// By a signal.
    Signal(i32),
    /// It was killed, because its time was over.
    TimedOut(Duration),
    /// It has not begun, or has been lost sight of.
    Failed(String),
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("ended with status 0"),
            Self::Status(status) => write!(f, "ended with status {status}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::TimedOut(limit) => write!(f, "did not end within {limit:?}, and was killed"),
            Self::Failed(error) => write!(f, "could not be run: {error}"),
        }
    }
}

impl How {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(0), _) => Self::Succeeded,
            (Some(code), _) => Self::Status(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Failed(status.to_string()),
        }
    }
}

/// Why a program could not be run on this host; `None` if it can.
pub fn why_not(program: &Path) -> Option<String> {
    let shown = program.display();
    match fs::metadata(program) {
        Err(error) => Some(format!("{shown}, which cannot be read: {error}; install it")),
        Ok(metadata) if !metadata.is_file() => {
            Some(format!("{shown}, which is no file; name the program in it"))
        }
        // Root may run what anybody may.
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => Some(format!(
            "{shown}, which is not executable; `chmod +x {shown}` makes it so"
        )),
        Ok(_) => None,
    }
}

/// Runs a program, with further arguments and these variables in its environment, until it ends or its time is over. Whoever drops
/// the future kills it.
pub async fn run(
    command: &Command,
    more_arguments: &[String],
    variables: &[(&str, String)],
    limit: Duration,
) -> Ended {
    let mut running = match Running::start(command, more_arguments, variables) {
        Ok(running) => running,
        Err(error) => {
            return Ended {
                how: How::Failed(error.to_string()),
                last_words: String::new(),
            };
        }
    };
    let how = match timeout(limit, running.follow()).await {
        Ok(Ok(status)) => How::of(status),
        Ok(Err(error)) => How::Failed(error.to_string()),
        Err(_) => {
            running.kill();
            // If it does not, the runtime takes it in when it does.
            let _ = timeout(KILLED, running.child.wait()).await;
            How::TimedOut(limit)
        }
    };
    running.read_what_is_there();
    Ended {
        how,
        last_words: last_words(&running.output),
    }
}

struct Running {
    child: Child,
    pipe: pipe::Receiver,
    output: Vec<u8>,
}

impl Running {
    fn start(command: &Command, more_arguments: &[String], variables: &[(&str, String)]) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let pipe = pipe::Receiver::from_owned_fd(reader.into())?;
        let child = Process::new(&command.program)
            .args(&command.arguments)
            .args(more_arguments)
            .env_clear()
            .env("PATH", PATH)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .spawn()?;
        Ok(Self {
            child,
            pipe,
            output: Vec::new(),
        })
    }

    /// Waits for its end. What it leaves behind may hold the pipe open, and is not waited for.
    async fn follow(&mut self) -> io::Result<ExitStatus> {
        let mut is_open = true;
        let mut read = [0; KEPT];
        loop {
            tokio::select! {
                status = self.child.wait() => return status,
                length = self.pipe.read(&mut read), if is_open => match length {
                    Ok(length) if length > 0 => keep(&mut self.output, read.get(..length).unwrap_or_default()),
                    _ => is_open = false,
                },
            }
        }
    }

    fn read_what_is_there(&mut self) {
        let mut read = [0; KEPT];
        for _ in 0..READS {
            match self.pipe.try_read(&mut read) {
                Ok(length) if length > 0 => keep(&mut self.output, read.get(..length).unwrap_or_default()),
                _ => break,
            }
        }
    }

    /// Kills its process group. Without effect once its end has been taken in: the number may be another's then.
    fn kill(&self) {
        let Some(group) = self.child.id().and_then(|id| i32::try_from(id).ok()) else {
            return;
        };
        // SAFETY: takes two integers and touches no memory of ours.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Keeps the end of what is read.
fn keep(output: &mut Vec<u8>, read: &[u8]) {
    output.extend_from_slice(read);
    let surplus = output.len().saturating_sub(KEPT);
    output.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// A second is more than a shell needs, even on a busy machine.
    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        Command {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
        }
    }

    async fn run_shell(script: &str, limit: Duration) -> Ended {
        run(&shell(script), &[], &[], limit).await
    }

    fn ended(how: How, last_words: &str) -> Ended {
        Ended {
            how,
            last_words: last_words.to_owned(),
        }
    }

    #[tokio::test]
    async fn the_end_and_the_last_words_are_told() {
        let ran = run_shell("echo one; echo two >&2; exit 3", LONG).await;
        assert_eq!(ran, ended(How::Status(3), "one; two"));
        assert_eq!(run_shell("exit 0", LONG).await, ended(How::Succeeded, ""));
        assert_eq!(run_shell("kill -9 $$", LONG).await, ended(How::Signal(9), ""));
        let nothing = Command {
            program: "/nonexistent/program".into(),
            arguments: Vec::new(),
        };
        let ran = run(&nothing, &[], &[], LONG).await;
        assert_eq!(
            ran.how.to_string(),
            "could not be run: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn what_cannot_be_run_is_known_before() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("program");
        let why = |path: &Path| {
            let text = why_not(path)?;
            Some(text.replace(&directory.path().display().to_string(), ""))
        };
        assert_eq!(
            why(&file).as_deref(),
            Some("/program, which cannot be read: No such file or directory (os error 2); install it")
        );
        assert_eq!(
            why(directory.path()).as_deref(),
            Some(", which is no file; name the program in it")
        );
        fs::write(&file, "#!/bin/sh\n").unwrap();
        assert_eq!(
            why(&file).as_deref(),
            Some("/program, which is not executable; `chmod +x /program` makes it so")
        );
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(why(&file), None);
    }

    #[tokio::test]
    async fn it_gets_its_arguments_and_nothing_of_our_environment() {
        let command = shell("echo \"$0 $1|$LB_STATE|$HOME|$CARGO_PKG_NAME|$PWD\"; cat; env | wc -l");
        let more = ["first".to_owned(), "a b".to_owned()];
        let ran = run(&command, &more, &[("LB_STATE", "master".into())], LONG).await;
        // PATH and ours, and PWD, which the shell adds.
        assert_eq!(ran, ended(How::Succeeded, "first a b|master|||/; 3"));
    }

    #[tokio::test]
    async fn what_does_not_end_is_killed_with_all_that_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!(
            "sleep 1000 & echo $! > {}; echo waiting; wait; echo never",
            file.display()
        );
        let limit = Duration::from_millis(700);
        let ran = run_shell(&script, limit).await;
        assert_eq!(ran, ended(How::TimedOut(limit), "waiting"));
        assert!(has_gone(&file).await);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_killed_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let task = tokio::spawn(async move { run_shell(&script, LONG).await });
        while !fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(has_gone(&file).await);
    }

    /// Whether the process that is named in a file ends.
    async fn has_gone(file: &Path) -> bool {
        let id = fs::read_to_string(file).unwrap().trim().to_owned();
        let state = || fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        for _ in 0..500 {
            // A zombie waits for its new parent only.
            if state().is_empty() || state().contains(") Z ") {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    #[tokio::test]
    async fn whoever_talks_without_end_is_cut_short_and_whoever_stays_behind_is_not_waited_for() {
        let limit = Duration::from_millis(500);
        let ran = run_shell("yes", limit).await;
        assert_eq!(ran.how, How::TimedOut(limit));
        assert!(
            ran.last_words.starts_with('…') && ran.last_words.ends_with("; y; y"),
            "{}",
            ran.last_words
        );
        // Whoever were waited for would be timed out.
        let ran = run_shell("sleep 60 & echo started", LONG).await;
        assert_eq!(ran, ended(How::Succeeded, "started"));
    }
}
