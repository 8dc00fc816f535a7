//! The balancer: decides about every frame of an interface and forwards those of its services.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// The program exists on the BPF target only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
    use lb_common::process::{Action, process};
    use lb_ebpf::{
        frame::Frame,
        maps::{Maps, redirect},
    };

    // With fragments, or drivers refuse it on interfaces whose MTU needs more than one of their buffers.
    #[xdp(frags)]
    fn balancer(context: XdpContext) -> u32 {
        match process(&mut Frame::of(&context), &Maps) {
            Action::Pass => xdp_action::XDP_PASS,
            Action::Drop => xdp_action::XDP_DROP,
            Action::Transmit { egress: 0 } => xdp_action::XDP_TX,
            Action::Transmit { egress } if egress == context.ingress_ifindex() as u32 => xdp_action::XDP_TX,
            Action::Transmit { egress } => redirect(egress),
        }
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
