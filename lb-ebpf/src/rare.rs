//! What is done with few packets, in BPF functions of their own: inlined it would take registers and stack from all.
//!
//! Each takes the program's context and reads the frame anew, because pointers into a frame are no arguments.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::forward;

use crate::frame::Frame;

/// Makes of the frame an [RST back to its sender](forward::reset), and returns whether it has.
#[inline(never)]
pub(crate) fn reset(context: *mut xdp_md) -> bool {
    forward::reset(&mut Frame::of(&XdpContext::new(context))).is_some()
}
