//! Tier 1: that the bench measures what it says. Nothing here looks at a clock.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeSet;

use lab::bench::Bench;
use lab::bench::cases::{self, Case, Fate};
use lab::emulation::is_emulated;
use lb_common::counter::Counter;

/// As many flows as the tables have room for. The bench itself tries more.
const FLOWS: u32 = 1 << 14;

/// As many flows as cases have that are tried here.
fn flows() -> u32 {
    if is_emulated() { 1 } else { FLOWS }
}

fn loaded() -> Bench {
    Bench::load(None, FLOWS).expect("the kernel accepts both programs; tests need root")
}

fn first(mode: &str) -> Case {
    cases::all()
        .into_iter()
        .find(|case| case.mode == mode)
        .expect("there is such a case")
}

#[test]
fn every_case_comes_out_right() {
    let mut bench = loaded();
    for case in cases::all().iter().filter(|case| case.flows <= flows()) {
        bench.check(case).unwrap();
    }
}

#[test]
fn every_case_has_a_name_of_its_own() {
    let cases = cases::all();
    let names: BTreeSet<String> = cases.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), cases.len());
}

#[test]
fn the_harness_visits_all_flows_with_the_frames_that_it_should() {
    let mut bench = loaded();
    for case in cases::all().iter().filter(|case| case.flows <= flows().min(1024)) {
        bench.establish(case).unwrap();
        let frames: BTreeSet<Vec<u8>> = (0..case.flows)
            .map(|made| {
                let frame = bench.frame(case, made).unwrap();
                assert_eq!(frame, bench.expected_frame(case, made).unwrap(), "{case}");
                frame
            })
            .collect();
        assert_eq!(frames.len(), case.flows as usize, "{case}");
    }
}

#[test]
fn a_case_whose_packets_meet_another_fate_is_refused() {
    let mut bench = loaded();
    let forwarded = first("dsr");
    for fate in [
        Fate::Pass,
        Fate::Drop(Counter::DropMalformed),
        match forwarded.fate {
            Fate::Forward { service, .. } => Fate::Forward {
                service,
                new_flow: true,
            },
            other => other,
        },
    ] {
        let error = bench
            .check(&Case {
                fate,
                ..forwarded.clone()
            })
            .unwrap_err();
        assert!(error.to_string().contains("expected"), "{error}");
    }
}
