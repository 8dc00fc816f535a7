//! An XDP program that hands every frame to the kernel.
//!
//! A veth device can only transmit and redirect in native XDP mode while its peer has a program too: without
//! one, transmitted frames wait in the peer's ring until its next interrupt. The lab attaches this program to the far
//! end of every link of a balancer.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// The program exists on the BPF target only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

    #[xdp]
    fn pass(_context: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
