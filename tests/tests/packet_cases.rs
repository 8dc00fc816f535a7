//! Tier 1: the XDP program, packet in, packet out, in the kernel, without a network.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use lab::agreement;
use lab::kernel_tables;
use lab::random::Random;
use lab::xdp_action;
use lb_common::counter::Counter;
use lb_common::layout::{Slot, Traffic};
use lb_common::testing::tables::TARGETS;
use lb_common::testing::{Case, HostTables, cases};
use lb_ctl::adapters::datapath::Datapath;
use proptest::prelude::*;

/// The program, with the tables of the host's fixture in its maps.
fn loaded() -> (Datapath, HostTables) {
    let tables = HostTables::fixture();
    // Room for whatever damaged SYNs open: the host's tables never evict.
    let datapath = kernel_tables::load(&tables, 65_536, 65_536).unwrap();
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

/// What the host has counted.
fn counted(tables: &HostTables) -> (Vec<u64>, Vec<Traffic>) {
    let counters = Counter::ALL
        .iter()
        .map(|&counter| tables.counted(counter))
        .collect();
    (counters, (0..TARGETS).map(|id| tables.forwarded(id)).collect())
}

fn check(datapath: &mut Datapath, tables: &mut HostTables, case: &Case) {
    let Case { sentence, frame, .. } = case;
    if let Err(error) = agreement::send(datapath, tables, frame) {
        panic!("{sentence}: {error}");
    }
    assert_eq!(
        (counters(datapath), traffic(datapath)),
        counted(tables),
        "{sentence}"
    );
}

#[test]
fn every_case_meets_its_fate() {
    let (mut datapath, mut tables) = loaded();
    for case in cases() {
        check(&mut datapath, &mut tables, &case);
    }
}

/// How many frames [`host_and_kernel_agree_on_a_million_frames`] tries.
const FRAMES: usize = 1_000_000;
/// After how many of them the counters are compared, which takes longer than many frames do.
const FRAMES_BETWEEN_COUNTS: usize = 10_000;

/// A frame that nobody would send: one of the originals with a few bytes changed, cut off, or of nothing but noise.
fn damaged(originals: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let (mut frame, damages) = if random.below(16) == 0 {
        let length = 14 + random.below(200);
        (vec![0; length], length)
    } else {
        (originals[random.below(originals.len())].clone(), random.below(6))
    };
    let by_bits = random.below(2) == 0;
    for _ in 0..damages {
        let reach = frame.len().min(100);
        let [value, bit, ..] = random.next().to_le_bytes();
        let offset = random.below(reach);
        // A whole byte, or one bit of it: flags and lengths come out almost right.
        frame[offset] = if by_bits {
            frame[offset] ^ (1 << (bit % 8))
        } else {
            value
        };
    }
    if random.below(4) == 0 {
        frame.truncate(14 + random.below(frame.len() - 13));
    }
    frame
}

/// As the next test, but many more frames, each of them new, and without a search for the smallest one that makes a difference.
#[test]
fn host_and_kernel_agree_on_a_million_frames() {
    let (mut datapath, mut tables) = loaded();
    let originals: Vec<Vec<u8>> = cases()
        .into_iter()
        .map(|case| case.frame)
        .filter(|frame| (14..=1514).contains(&frame.len()))
        .collect();
    let seed = RandomState::new().hash_one(FRAMES);
    let mut random = Random::of(seed);
    let mut actions = BTreeMap::from([(xdp_action::DROP, 0), (xdp_action::PASS, 0), (xdp_action::TX, 0)]);
    for count in 1..=FRAMES {
        let frame = damaged(&originals, &mut random);
        let (_, expected) = agreement::on_host(&mut tables, &frame);
        let outcome = agreement::in_kernel(&mut datapath, &frame).unwrap();
        assert_eq!(outcome, expected, "frame {count} of seed {seed}: {frame:02x?}");
        *actions.entry(outcome.action).or_default() += 1;
        if count % FRAMES_BETWEEN_COUNTS == 0 {
            assert_eq!(
                (counters(&datapath), traffic(&datapath)),
                counted(&tables),
                "up to frame {count} of seed {seed}"
            );
        }
    }
    // If nearly all had the same fate, this would show little.
    for (action, frames) in actions {
        assert!(
            frames >= FRAMES / 50,
            "{frames} of {FRAMES} frames had action {action}"
        );
    }
}

/// The kernel's decision and the host's are the same code; this shows that maps, packet access and compiler did not
/// make them differ.
#[test]
fn host_and_kernel_agree_on_damaged_frames() {
    let (datapath, tables) = loaded();
    let twins = std::cell::RefCell::new((datapath, tables));
    let originals: Vec<Vec<u8>> = cases().into_iter().map(|case| case.frame).collect();
    let damaged = (
        0..originals.len(),
        proptest::collection::vec((0usize..80, any::<u8>()), 0..5),
        // Cut within the headers, or not at all but for the longest, which may still be too long for a tunnel.
        prop_oneof![14usize..120, 1400usize..1600],
    );
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    // The default has taken the number of cases from this variable, if it is set.
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 2_000;
    }
    proptest!(config, |((original, damage, length) in damaged)| {
        let mut frame = originals[original].clone();
        for (offset, value) in damage {
            if let Some(byte) = frame.get_mut(offset) {
                *byte = value;
            }
        }
        frame.truncate(length);
        let (datapath, tables) = &mut *twins.borrow_mut();
        let (_, expected) = agreement::on_host(tables, &frame);
        prop_assert_eq!(agreement::in_kernel(datapath, &frame).unwrap(), expected);
        prop_assert_eq!((counters(datapath), traffic(datapath)), counted(tables));
    });
}

#[test]
fn a_slot_that_moves_takes_its_flow_along() {
    let (mut datapath, tables) = loaded();
    let frame = cases().remove(0).frame;
    let service = tables.service(lb_common::testing::tables::ONE);
    let sent_to = |datapath: &mut Datapath| datapath.test_run(&frame).unwrap().frame[..12].to_owned();
    assert_eq!(sent_to(&mut datapath), tables.targets[1].addresses());
    for index in service.slot_indices() {
        datapath.write_slot(index, Slot::untracked(2)).unwrap();
    }
    assert_eq!(sent_to(&mut datapath), tables.targets[2].addresses());
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
