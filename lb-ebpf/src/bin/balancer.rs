//! The balancer: decides about every frame of an interface and forwards those of its services.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// The program exists on the BPF target only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
    use lb_common::{
        counter::Counter,
        decision::{Verdict, decide},
        forward::direct_server_return,
        packet::Packet,
    };
    use lb_ebpf::{
        frame::Frame,
        maps::{self, Maps},
    };

    #[xdp]
    fn balancer(context: XdpContext) -> u32 {
        let mut frame = Frame::of(&context);
        match decide(&frame, &Maps) {
            Verdict::Pass => xdp_action::XDP_PASS,
            Verdict::Drop(counter) => {
                maps::count(counter);
                xdp_action::XDP_DROP
            }
            Verdict::Forward { id, target, new_flow } => {
                if direct_server_return(&mut frame, target).is_none() {
                    maps::count(Counter::DropTruncated);
                    return xdp_action::XDP_DROP;
                }
                maps::count_forwarded(id, frame.length(), new_flow);
                xdp_action::XDP_TX
            }
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
