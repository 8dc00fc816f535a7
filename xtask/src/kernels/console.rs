//! What the machine's first process does, and what it says about that on the console.

use std::{collections::VecDeque, fmt::Write as _, path::Path};

use super::Job;

/// Begins what our first process says about the programs; nothing else prints this.
const MARK: &str = "@lb-ctl-tier-3@";

/// How much of the console is kept for explaining a failure.
const KEPT_LINES: usize = 30;

/// Where the programs are in the machine.
pub(super) const PROGRAMS: &str = "/programs";

/// The script that is the machine's first process. The last line ends the machine.
pub(super) fn first_process(job: &Job) -> String {
    let mut script = "#!/bin/busybox sh\n\
        /bin/busybox mount -t proc proc /proc\n\
        /bin/busybox mount -t sysfs sysfs /sys\n\
        /bin/busybox mount -t devtmpfs devtmpfs /dev\n\
        /bin/busybox mount -t tmpfs tmpfs /tmp\n\
        /bin/busybox mount -t bpf bpf /sys/fs/bpf\n"
        .to_owned();
    let _ = writeln!(script, "echo {MARK} booted $(/bin/busybox uname -r)");
    for (name, value) in &job.variables {
        let _ = writeln!(script, "export {name}={}", quoted(value));
    }
    let arguments: Vec<_> = job.arguments.iter().map(|word| quoted(word)).collect();
    let arguments = arguments.join(" ");
    for (index, program) in job.programs.iter().enumerate() {
        let _ = writeln!(
            script,
            "echo {MARK} start {index}\n{} {arguments} 2>&1\necho {MARK} end {index} $?",
            quoted(&in_machine(program)),
        );
    }
    script.push_str("/bin/busybox poweroff -f\n");
    script
}

/// The program's path in the machine.
pub(super) fn in_machine(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    format!("{PROGRAMS}/{name}")
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The machine's console so far.
#[derive(Default)]
pub(crate) struct Console {
    last_lines: VecDeque<String>,
    /// The program that runs.
    running: Option<usize>,
}

/// What a line on the console means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen<'a> {
    /// The kernel of this release has started.
    Booted(&'a str),
    /// A program, by its index in the job, starts.
    Start(usize),
    /// It prints this.
    Output(&'a str),
    /// It has ended with this exit code.
    End(usize, u8),
    /// Firmware or kernel say something.
    Other,
}

impl Console {
    /// Reads the next line.
    pub(crate) fn see<'a>(&mut self, line: &'a str) -> Seen<'a> {
        let line = line.trim_end_matches(['\r', '\n']);
        if self.last_lines.len() == KEPT_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(printable(line));
        // The program before may have left its last line without an end.
        let marked = line.split_once(MARK).and_then(|(_, rest)| parse_marked(rest));
        match marked {
            Some(Seen::Start(index)) => self.running = Some(index),
            Some(Seen::End(..)) => self.running = None,
            _ => {}
        }
        match marked {
            Some(seen) => seen,
            None if self.running.is_some() => Seen::Output(line),
            None => Seen::Other,
        }
    }

    /// Its last lines, indented.
    pub(crate) fn end(&self) -> String {
        let lines = self.last_lines.iter().filter(|line| !line.is_empty());
        lines
            .map(|line| format!("    | {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn parse_marked(rest: &str) -> Option<Seen<'_>> {
    let mut words = rest.split_ascii_whitespace();
    match (words.next()?, words.next()?) {
        ("booted", release) => Some(Seen::Booted(release)),
        ("start", index) => Some(Seen::Start(index.parse().ok()?)),
        ("end", index) => Some(Seen::End(index.parse().ok()?, words.next()?.parse().ok()?)),
        _ => None,
    }
}

/// The line without what could command the user's terminal.
fn printable(line: &str) -> String {
    line.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

/// What a shell's exit code means.
pub(crate) fn describe_exit_code(code: u8) -> String {
    match code {
        129.. => format!("signal: {}", code - 128),
        _ => format!("exit status: {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_output_is_told_from_the_kernels() {
        let mut console = Console::default();
        for (line, expected) in [
            ("[    0.1] Booting\r", Seen::Other),
            ("@lb-ctl-tier-3@ booted 6.1.0-56\r", Seen::Booted("6.1.0-56")),
            ("@lb-ctl-tier-3@ start 1\r", Seen::Start(1)),
            ("test a ... ok\r", Seen::Output("test a ... ok")),
            ("", Seen::Output("")),
            ("@lb-ctl-tier-3@ what 1", Seen::Output("@lb-ctl-tier-3@ what 1")),
            ("cut off@lb-ctl-tier-3@ end 1 134\r", Seen::End(1, 134)),
            ("[    9.9] reboot: Power down\r", Seen::Other),
        ] {
            assert_eq!(console.see(line), expected, "{line}");
        }
    }

    #[test]
    fn the_end_of_the_console_can_be_shown() {
        let mut console = Console::default();
        console.see("\x1bcfirst");
        assert_eq!(console.end(), "    | cfirst");
        for number in 0..KEPT_LINES {
            console.see(&number.to_string());
        }
        assert!(!console.end().contains("first"));
        assert!(console.end().ends_with("    | 29"));
    }

    #[test]
    fn the_first_process_runs_every_program_and_ends_the_machine() {
        let job = Job {
            programs: vec!["/target/packet_a-1".into(), "/target/packet_b-2".into()],
            arguments: vec!["it's".into()],
            variables: vec![("PROPTEST_CASES", "2000".into())],
        };
        let script = first_process(&job);
        let expected = "export PROPTEST_CASES='2000'\n\
            echo @lb-ctl-tier-3@ start 0\n\
            '/programs/packet_a-1' 'it'\\''s' 2>&1\n\
            echo @lb-ctl-tier-3@ end 0 $?\n\
            echo @lb-ctl-tier-3@ start 1\n\
            '/programs/packet_b-2' 'it'\\''s' 2>&1\n\
            echo @lb-ctl-tier-3@ end 1 $?\n\
            /bin/busybox poweroff -f\n";
        assert!(script.ends_with(expected), "{script}");
    }

    #[test]
    fn exit_codes_above_128_are_signals() {
        assert_eq!(describe_exit_code(101), "exit status: 101");
        assert_eq!(describe_exit_code(134), "signal: 6");
    }
}
