//! The same frames through the XDP program with its maps, and through the decision with ordinary collections.

use anyhow::{Result, ensure};
use lb_common::packet::PacketBuffer as _;
use lb_common::process::{Action, process};
use lb_common::testing::HostTables;
use lb_ctl::adapters::datapath::{Datapath, TestRunOutput};

use crate::xdp_action;

/// Sends a frame through both, which must agree on what becomes of it and what it becomes. Returns what the host has decided.
pub fn send(kernel: &mut Datapath, host: &mut HostTables, frame: &[u8]) -> Result<Action> {
    let (action, expected) = on_host(host, frame);
    let found = in_kernel(kernel, frame)?;
    ensure!(
        found == expected,
        "of {frame:02x?} the host makes {expected:02x?}, and the kernel {found:02x?}"
    );
    Ok(action)
}

/// What the host makes of a frame: its decision, and that in the kernel's terms.
pub fn on_host(host: &mut HostTables, frame: &[u8]) -> (Action, TestRunOutput) {
    let mut packet = frame.to_owned();
    let ingress = packet.ingress();
    let action = process(&mut packet, host);
    host.carry_out();
    let output = TestRunOutput {
        action: xdp_action::of(action, ingress),
        frame: packet,
    };
    (action, without_dropped(output))
}

/// What the kernel makes of a frame.
pub fn in_kernel(kernel: &mut Datapath, frame: &[u8]) -> Result<TestRunOutput> {
    Ok(without_dropped(kernel.test_run(frame)?))
}

/// What a dropped frame looks like is of no interest.
pub(crate) fn without_dropped(output: TestRunOutput) -> TestRunOutput {
    let frame = match output.action {
        xdp_action::DROP => Vec::new(),
        _ => output.frame,
    };
    TestRunOutput { frame, ..output }
}
