//! What came of the tests: counts, failures, the table and the summary line.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};

use super::Tier;
use crate::{
    command,
    libtest::{self, Counts},
};

/// What came of the test programs so far.
pub(super) struct Report {
    counts: BTreeMap<Tier, Counts>,
    failures: Vec<String>,
}

/// Says which program's output follows.
pub(super) fn announce(tier: Tier, name: &str) {
    println!("\ntier {}: {name}", tier.number());
}

impl Report {
    /// A report that will have a row for each of these tiers.
    pub(super) fn new(tiers: impl IntoIterator<Item = Tier>) -> Self {
        Self {
            counts: tiers.into_iter().map(|tier| (tier, Counts::default())).collect(),
            failures: Vec::new(),
        }
    }

    /// Runs a test program, shows what it prints, and counts.
    pub(super) fn run(&mut self, tier: Tier, name: &str, command: &mut Command) -> Result<()> {
        announce(tier, name);
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

    pub(super) fn add(&mut self, tier: Tier, name: &str, result: ProgramResult, success: bool, status: &str) {
        let mut counts = result.counts.unwrap_or_default();
        self.failures
            .extend(result.failed.into_iter().map(|test| format!("{name}: {test}")));
        if result.counts.is_none() || (!success && counts.failed == 0) {
            counts.failed += 1;
            self.failures
                .push(format!("{name}: ended without a result of its tests ({status})"));
        }
        *self.counts.entry(tier).or_default() += counts;
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in self.counts.values() {
            total += *counts;
        }
        total
    }

    pub(super) fn table(&self) -> String {
        let mut table = format!("{:<38}{:>8}{:>8}{:>9}\n", "tier", "passed", "failed", "ignored");
        for (tier, counts) in &self.counts {
            let Counts {
                passed,
                failed,
                ignored,
            } = counts;
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
    pub(super) fn summary(&self) -> String {
        let Counts { passed, failed, .. } = self.total();
        format!("tests: {passed} passed, {failed} failed")
    }

    fn any_test_ran(&self) -> bool {
        self.total().passed + self.total().failed > 0
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        if self.any_test_ran() && self.total().failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// What one test program printed.
#[derive(Default)]
pub(super) struct ProgramResult {
    counts: Option<Counts>,
    failed: Vec<String>,
}

impl ProgramResult {
    pub(super) fn see(&mut self, line: &str) {
        if let Some(counts) = Counts::parse(line) {
            // The documentation tests of one package print several results.
            *self.counts.get_or_insert_default() += counts;
        } else if let Some(test) = libtest::failed_test(line) {
            self.failed.push(test.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str], success: bool) -> Report {
        let mut result = ProgramResult::default();
        for line in lines {
            result.see(line);
        }
        let mut report = Report::new([Tier::Packet]);
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
