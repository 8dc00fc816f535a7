//! `cargo xtask test`: the tests of tiers 0 to 2, one after the other whatever fails, and one summary line.
//!
//! Cargo builds the test programs as the calling user; this module runs them itself, since those of tiers 1 and 2 have
//! to run as root, and since a program that crashes prints no result that could be counted.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    command,
    libtest::{self, Counts},
    setup::{self, Ready, Scope},
};

/// The package whose integration tests need root.
const LAB: &str = "lab";

/// Packages with a library whose documentation has examples to test.
const LIBRARIES: [&str; 3] = ["lb-common", "lb-ctl", LAB];

/// What a test needs, as DESIGN.md section 9 divides them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Pure,
    Packet,
    Lab,
}

impl Tier {
    const ALL: [Self; 3] = [Self::Pure, Self::Packet, Self::Lab];

    const fn title(self) -> &'static str {
        match self {
            Self::Pure => "0  unit and property tests",
            Self::Packet => "1  packets through the XDP program",
            Self::Lab => "2  processes in the lab",
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

/// Runs all tests whose names contain one of the filters.
pub(crate) fn run(filters: &[String]) -> Result<ExitCode> {
    let ready = setup::run(Scope::Lab)?;
    // The tests of the lab start the product's binaries.
    command::run(command::cargo().args(["build", "--workspace", "--bins"]))?;
    let mut programs = build()?;
    programs.sort_by(|a, b| (a.tier, &a.name).cmp(&(b.tier, &b.name)));

    let mut report = Report::default();
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
            for name in [
                "PATH",
                "RUST_BACKTRACE",
                "RUST_LOG",
                "RUST_TEST_THREADS",
                "PROPTEST_CASES",
            ] {
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

/// What came of the test programs so far.
#[derive(Default)]
struct Report {
    counts: [Counts; Tier::ALL.len()],
    failures: Vec<String>,
}

impl Report {
    /// Runs a test program, shows what it prints, and counts.
    fn run(&mut self, tier: Tier, name: &str, command: &mut Command) -> Result<()> {
        println!("\ntier {}: {name}", tier as usize);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", command::display(command)))?;
        let mut result = ProgramResult::default();
        if let Some(stdout) = child.stdout.take() {
            // Bytes and not lines of text: a test may print anything.
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line.with_context(|| format!("cannot read what {name} prints"))?;
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                result.see(&line);
            }
        }
        let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
        self.add(tier, name, result, status.success(), &status.to_string());
        Ok(())
    }

    fn add(&mut self, tier: Tier, name: &str, result: ProgramResult, success: bool, status: &str) {
        let mut counts = result.counts.unwrap_or_default();
        self.failures
            .extend(result.failed.into_iter().map(|test| format!("{name}: {test}")));
        if result.counts.is_none() || (!success && counts.failed == 0) {
            counts.failed += 1;
            self.failures
                .push(format!("{name}: ended without a result of its tests ({status})"));
        }
        self.counts[tier as usize] += counts;
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in self.counts {
            total += counts;
        }
        total
    }

    fn table(&self) -> String {
        let mut table = format!("{:<38}{:>8}{:>8}{:>9}\n", "tier", "passed", "failed", "ignored");
        for tier in Tier::ALL {
            let Counts {
                passed,
                failed,
                ignored,
            } = self.counts[tier as usize];
            let _ = writeln!(table, "{:<38}{passed:>8}{failed:>8}{ignored:>9}", tier.title());
        }
        for failure in &self.failures {
            let _ = writeln!(table, "FAILED  {failure}");
        }
        if !self.any_test_ran() {
            table.push_str("No test ran: is there a test with such a name?\n");
        }
        table
    }

    /// The line that everybody looks for; the last one that is printed.
    fn summary(&self) -> String {
        let Counts { passed, failed, .. } = self.total();
        format!("tests: {passed} passed, {failed} failed")
    }

    fn any_test_ran(&self) -> bool {
        self.total().passed + self.total().failed > 0
    }

    fn exit_code(&self) -> ExitCode {
        if self.any_test_ran() && self.total().failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// What one test program printed.
#[derive(Default)]
struct ProgramResult {
    counts: Option<Counts>,
    failed: Vec<String>,
}

impl ProgramResult {
    fn see(&mut self, line: &str) {
        if let Some(counts) = Counts::parse(line) {
            // The documentation tests of one package print several results.
            *self.counts.get_or_insert_default() += counts;
        } else if let Some(test) = libtest::failed_test(line) {
            self.failed.push(test.into());
        }
    }
}

impl Ready {
    /// The environment of what runs in the lab.
    pub(crate) fn variables_of_lab(&self) -> Vec<(&'static str, OsString)> {
        vec![("LB_LAB_PYTHON", self.python.clone().into())]
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

    fn report(lines: &[&str], success: bool) -> Report {
        let mut result = ProgramResult::default();
        for line in lines {
            result.see(line);
        }
        let mut report = Report::default();
        report.add(Tier::Packet, "lab: test packet_x", result, success, "signal: 6");
        report
    }

    const OK: &str =
        "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s";
    const BAD: &str =
        "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s";

    #[test]
    fn results_are_added_up() {
        let mut report = report(&[OK], true);
        assert_eq!(report.summary(), "tests: 2 passed, 0 failed");
        assert_eq!(report.exit_code(), ExitCode::SUCCESS);
        let mut result = ProgramResult::default();
        result.see("test a ... FAILED");
        result.see(BAD);
        report.add(Tier::Lab, "lab: test y", result, false, "exit status: 101");
        assert_eq!(report.summary(), "tests: 3 passed, 1 failed");
        assert_eq!(report.failures, ["lab: test y: a"]);
        assert_eq!(report.exit_code(), ExitCode::FAILURE);
    }

    #[test]
    fn a_crash_is_a_failure_with_and_without_a_result() {
        for lines in [vec!["running 2 tests", "test a ... ok"], vec![OK]] {
            let report = report(&lines, false);
            assert_eq!(report.total().failed, 1);
            assert_eq!(report.exit_code(), ExitCode::FAILURE);
            assert!(report.table().contains("signal: 6"), "{}", report.table());
        }
        // A program that ends well without having run its tests has not tested anything either.
        assert_eq!(report(&[], true).total().failed, 1);
    }

    #[test]
    fn no_test_at_all_is_a_failure() {
        let none =
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.1s";
        let report = report(&[none], true);
        assert_eq!(report.summary(), "tests: 0 passed, 0 failed");
        assert_eq!(report.exit_code(), ExitCode::FAILURE);
    }
}
