//! What becomes of a frame, as XDP programs return it: `enum xdp_action` of linux/bpf.h.

use lb_common::process::Action;

/// The frame is dropped.
pub const DROP: u32 = 1;
/// The kernel's network stack gets it.
pub const PASS: u32 = 2;
/// It leaves on the interface on which it came in.
pub const TX: u32 = 3;
/// It leaves on another one.
pub const REDIRECT: u32 = 4;

/// What the balancer's program returns when the decision about a frame from the interface `ingress` is this.
pub const fn of(action: Action, ingress: u32) -> u32 {
    match action {
        Action::Pass => PASS,
        Action::Drop => DROP,
        Action::Transmit { egress } if egress == 0 || egress == ingress => TX,
        Action::Transmit { .. } => REDIRECT,
    }
}
