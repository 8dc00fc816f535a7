//! Tier 1: the decapsulator, packet in, packet out, in the kernel, without a network.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use lab::xdp_action;
use lb_common::decapsulate::{Action, Counter, process};
use lb_common::headers::ethernet::ethertype;
use lb_common::testing::cases;
use lb_common::testing::endpoint::{
    ENDPOINTS, HostEndpoint, SOURCES, VIPS, jumbo_target, packets, targets, wrapped,
};
use lb_ctl::adapters::datapath::TestRunOutput;
use lb_ctl::adapters::datapath::decapsulator::Decapsulator;
use lb_ctl::core::prefix::Prefix;
use lb_ctl::core::tunnels::Tunnels;
use proptest::prelude::*;

fn loaded() -> (Decapsulator, HostEndpoint) {
    let tunnels = Tunnels {
        sources: SOURCES
            .map(|(address, length)| Prefix::of(address, length))
            .to_vec(),
        endpoints: ENDPOINTS.to_vec(),
        vips: VIPS.to_vec(),
    };
    let program = Decapsulator::load(&tunnels).expect("the kernel accepts the program; tests need root");
    (program, HostEndpoint::default())
}

/// Every mixture of families, without a tag, with one and with two.
fn tunnel_frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for packet in packets() {
        // What the sender inside says about congestion: it does not know marks; it does.
        let classes = [0xb8, 0xba].map(|class| packet.clone().class(class).payload(&[0xab; 100]));
        for plain in classes {
            let tagged = plain.clone().tag(ethertype::VLAN);
            let twice = plain.clone().tag(ethertype::SERVICE_VLAN).tag(ethertype::VLAN);
            for (frame, target) in [plain, tagged, twice]
                .iter()
                .flat_map(|frame| targets().map(|target| (frame, target)))
            {
                frames.push(wrapped(&frame.bytes(), &target));
            }
        }
        // Goes on in fragments, beyond the page that the program sees.
        let jumbo = packet.clone().payload(&[0xab; 8900]);
        frames.push(wrapped(&jumbo.bytes(), &jumbo_target()));
    }
    frames
}

/// Compares what kernel and host make of a frame, and what they count.
fn compare(program: &mut Decapsulator, host: &HostEndpoint, frame: &[u8]) -> Result<Action, TestCaseError> {
    let mut after = frame.to_owned();
    let action = process(&mut after, host);
    let TestRunOutput {
        action: in_kernel,
        frame: output,
    } = program.test_run(frame).unwrap();
    match action {
        Action::Pass => prop_assert_eq!((in_kernel, output), (xdp_action::PASS, after)),
        // What a dropped frame looks like is of no interest.
        Action::Drop => prop_assert_eq!(in_kernel, xdp_action::DROP),
    }
    for &counter in Counter::ALL {
        let counted = program.counter(counter).unwrap();
        prop_assert_eq!(counted, host.counted(counter), "{}", counter.name());
    }
    Ok(action)
}

#[test]
fn tunnels_of_balancers_are_opened() {
    let (mut program, host) = loaded();
    let frames = tunnel_frames();
    for frame in &frames {
        assert_eq!(compare(&mut program, &host, frame).unwrap(), Action::Pass);
    }
    assert_eq!(
        program.counter(Counter::Decapsulated).unwrap(),
        frames.len() as u64
    );
}

#[test]
fn everything_else_passes_unchanged() {
    let (mut program, host) = loaded();
    for case in cases() {
        let output = program.test_run(&case.frame).unwrap();
        assert_eq!(
            (output.action, output.frame),
            (xdp_action::PASS, case.frame),
            "{}",
            case.sentence
        );
    }
    for &counter in Counter::ALL {
        assert_eq!(program.counter(counter).unwrap(), host.counted(counter));
    }
}

#[test]
fn host_and_kernel_agree_on_damaged_tunnels() {
    let (program, host) = loaded();
    let program = std::cell::RefCell::new(program);
    let originals = tunnel_frames();
    let damaged = (
        0..originals.len(),
        proptest::collection::vec((0usize..110, any::<u8>()), 0..4),
        prop_oneof![14usize..130, Just(usize::MAX)],
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
        compare(&mut program.borrow_mut(), &host, &frame)?;
    });
}
