//! Tier 1: the XDP program, packet in, packet out, in the kernel, without a network.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use lb_common::counter::Counter;
use lb_common::decision::{Verdict, decide};
use lb_common::forward::direct_server_return;
use lb_common::layout::{ServiceKey, Slot, Traffic};
use lb_common::testing::tables::{TARGETS, VIP};
use lb_common::testing::{Case, HostTables, Outcome, cases};
use lb_ctl::adapters::datapath::{Datapath, Sizes, TestRunOutput};
use proptest::prelude::*;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// The program, with the tables of the host's fixture in its maps.
fn loaded() -> (Datapath, HostTables) {
    let tables = HostTables::fixture();
    let sizes = Sizes {
        services: u32::try_from(tables.services.len()).unwrap(),
        slots: u32::try_from(tables.slots.len()).unwrap(),
        targets: u32::from(TARGETS),
        flows: 1024,
        half_open: 1024,
    };
    let mut datapath = Datapath::load(sizes).expect("the kernel accepts the program; tests need root");
    for (index, &bits) in (0..).zip(&tables.slots) {
        datapath.write_slot(index, Slot::from_bits(bits)).unwrap();
    }
    for (id, &target) in (0..).zip(&tables.targets) {
        datapath.write_target(id, target).unwrap();
    }
    for (&key, &service) in &tables.services {
        datapath.write_service(key, service).unwrap();
    }
    (datapath, tables)
}

fn counters(datapath: &Datapath) -> Vec<u64> {
    Counter::ALL
        .iter()
        .map(|&counter| datapath.counter(counter).unwrap())
        .collect()
}

fn traffic(datapath: &Datapath) -> Vec<Traffic> {
    (0..TARGETS).map(|id| datapath.traffic(id).unwrap()).collect()
}

/// The frame as it must leave: nothing but its MAC addresses changed.
fn forwarded(tables: &HostTables, frame: &[u8], id: u16) -> Vec<u8> {
    let mut frame = frame.to_owned();
    direct_server_return(frame.as_mut_slice(), &tables.targets[usize::from(id)]).unwrap();
    frame
}

fn check(datapath: &mut Datapath, tables: &HostTables, case: &Case) {
    let Case {
        sentence,
        frame,
        outcome,
    } = case;
    let (counters_before, traffic_before) = (counters(datapath), traffic(datapath));
    let output = datapath.test_run(frame).unwrap();
    let (mut counters_expected, mut traffic_expected) = (counters_before, traffic_before);
    let expected = match *outcome {
        Outcome::Pass => TestRunOutput {
            action: XDP_PASS,
            frame: frame.clone(),
        },
        Outcome::Drop(counter) => {
            counters_expected[counter as usize] += 1;
            TestRunOutput {
                action: XDP_DROP,
                frame: frame.clone(),
            }
        }
        Outcome::Forward { id, new_flow } => {
            let counted = Traffic {
                packets: 1,
                bytes: frame.len() as u64,
                new_flows: u64::from(new_flow),
            };
            traffic_expected[usize::from(id)] = traffic_expected[usize::from(id)].plus(counted);
            TestRunOutput {
                action: XDP_TX,
                frame: forwarded(tables, frame, id),
            }
        }
    };
    assert_eq!(output, expected, "{sentence}: {frame:02x?}");
    assert_eq!(counters(datapath), counters_expected, "{sentence}: counters");
    assert_eq!(traffic(datapath), traffic_expected, "{sentence}: traffic");
}

#[test]
fn every_case_meets_its_fate() {
    let (mut datapath, tables) = loaded();
    for case in cases() {
        check(&mut datapath, &tables, &case);
    }
}

/// The kernel's decision and the host's are the same code; this shows that maps, packet access and compiler did not
/// make them differ.
#[test]
fn host_and_kernel_agree_on_damaged_frames() {
    let (datapath, tables) = loaded();
    let datapath = std::cell::RefCell::new(datapath);
    let originals: Vec<Vec<u8>> = cases().into_iter().map(|case| case.frame).collect();
    let damaged = (
        0..originals.len(),
        proptest::collection::vec((0usize..80, any::<u8>()), 0..5),
        14usize..120,
    );
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    // The default has taken the number of cases from this variable, if it is set.
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 20_000;
    }
    proptest!(config, |((original, damage, length) in damaged)| {
        let mut frame = originals[original].clone();
        for (offset, value) in damage {
            if let Some(byte) = frame.get_mut(offset) {
                *byte = value;
            }
        }
        frame.truncate(length);
        let mut datapath = datapath.borrow_mut();
        let (mut counts, mut forwards) = (counters(&datapath), traffic(&datapath));
        let output = datapath.test_run(&frame).unwrap();
        let expected = match decide(frame.as_slice(), &tables) {
            Verdict::Pass => TestRunOutput { action: XDP_PASS, frame },
            Verdict::Drop(counter) => {
                counts[counter as usize] += 1;
                TestRunOutput { action: XDP_DROP, frame }
            }
            Verdict::Forward { id, new_flow, .. } => {
                let counted = Traffic { packets: 1, bytes: frame.len() as u64, new_flows: u64::from(new_flow) };
                forwards[usize::from(id)] = forwards[usize::from(id)].plus(counted);
                TestRunOutput { action: XDP_TX, frame: forwarded(&tables, &frame, id) }
            }
        };
        prop_assert_eq!(output, expected);
        prop_assert_eq!(counters(&datapath), counts);
        prop_assert_eq!(traffic(&datapath), forwards);
    });
}

#[test]
fn a_slot_that_moves_takes_its_flow_along() {
    let (mut datapath, tables) = loaded();
    let frame = cases().remove(0).frame;
    let service = tables.services[&ServiceKey::tcp(VIP.into(), lb_common::testing::tables::ONE.port())];
    assert_eq!(
        datapath.test_run(&frame).unwrap().frame,
        forwarded(&tables, &frame, 1)
    );
    for index in service.first_slot..service.first_slot + service.slots {
        datapath.write_slot(index, Slot::untracked(2)).unwrap();
    }
    assert_eq!(
        datapath.test_run(&frame).unwrap().frame,
        forwarded(&tables, &frame, 2)
    );
}

#[test]
fn a_slot_beyond_the_table_is_refused() {
    let (mut datapath, tables) = loaded();
    let beyond = u32::try_from(tables.slots.len()).unwrap();
    let error = datapath.write_slot(beyond, Slot::untracked(1)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("slot {beyond} was asked for")),
        "{error}"
    );
}
