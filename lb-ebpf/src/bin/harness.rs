//! The harness in which other XDP programs are measured, and the program that is its floor.
//!
//! `lb_common::harness` says why and how. Not part of the product.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// The programs exist on the BPF target only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        EbpfContext as _,
        bindings::xdp_action,
        helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
        macros::{map, xdp},
        maps::{Array, ProgramArray},
        programs::XdpContext,
    };
    use lb_common::{
        harness::{FRAME_LENGTH, Stimulus, Variation, program},
        packet::{Packet as _, PacketMut as _},
    };
    use lb_ebpf::frame::Frame;

    // The names are those of `lb_common::harness::map`.

    #[map]
    static STIMULUS: Array<Stimulus> = Array::with_max_entries(1, 0);

    #[map]
    static VARIATIONS: Array<Variation> = Array::with_max_entries(1, 0);

    #[map]
    static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(program::COUNT, 0);

    /// Makes the next frame and calls the program that is to get it. Aborts where it cannot, which no caller takes for
    /// a result.
    // With fragments, like the programs that it calls: the kernel lets no others into its array.
    #[xdp(frags)]
    fn harness(context: XdpContext) -> u32 {
        if let Some(program) = make_frame(&context) {
            // SAFETY: nothing here waits to be dropped; on success control does not come back.
            unsafe { PROGRAMS.tail_call(&context, program) };
        }
        xdp_action::XDP_ABORTED
    }

    #[inline(always)]
    fn make_frame(context: &XdpContext) -> Option<u32> {
        let stimulus = STIMULUS.get_ptr_mut(0)?;
        // SAFETY: the bench runs one harness at a time and touches the map only between runs.
        let stimulus = unsafe { &mut *stimulus };
        restore_length(context, stimulus)?;

        let mut frame = Frame::of(context);
        // Word by word: the compiler would copy an array of bytes one at a time.
        for (index, word) in stimulus.template().iter().enumerate() {
            frame.write(index * size_of::<u64>(), word.to_ne_bytes())?;
        }
        let variation = match stimulus.listed_after(stimulus.made) {
            Some(index) => *VARIATIONS.get(index)?,
            None => stimulus.variation(stimulus.flow_after(stimulus.made)),
        };
        let (address, port) = stimulus.offsets();
        // The verifier has to know a bound of what is added to a packet pointer.
        if address >= FRAME_LENGTH || port >= FRAME_LENGTH {
            return None;
        }
        frame.write(address, variation.address)?;
        frame.write(port, variation.port)?;
        stimulus.made = stimulus.made.wrapping_add(1);
        Some(stimulus.program)
    }

    /// Undoes what the last program has done to the frame's ends: gives it its old place and length.
    ///
    /// The helpers are called even when there is nothing to do, so that the floor pays as much as a program that adds a header.
    #[inline(always)]
    fn restore_length(context: &XdpContext, stimulus: &mut Stimulus) -> Option<()> {
        let place = place(context, stimulus);
        if stimulus.home == 0 {
            stimulus.home = place;
        }
        let moved = stimulus.home.wrapping_sub(place) as i32;
        let excess = Frame::of(context).length() as i32 - moved - FRAME_LENGTH as i32;
        // The end first: the helper for the front leaves no frame shorter than an Ethernet header.
        // SAFETY: the context is the one of this program, and every pointer into the frame is made anew afterwards.
        let end = unsafe { bpf_xdp_adjust_tail(context.as_ptr().cast(), -excess) };
        // SAFETY: as above.
        let front = unsafe { bpf_xdp_adjust_head(context.as_ptr().cast(), moved) };
        (end == 0 && front == 0).then_some(())
    }

    /// The address of the frame's first byte, as a number: the verifier lets a packet pointer become one only by way of memory.
    #[inline(always)]
    fn place(context: &XdpContext, stimulus: &mut Stimulus) -> u64 {
        let place = &raw mut stimulus.place;
        // SAFETY: a field that is borrowed can be written. Volatile, so that the compiler does not leave the way out.
        unsafe { place.write_volatile(context.data() as u64) };
        // SAFETY: as above.
        unsafe { place.read_volatile() }
    }

    /// The least that a program which forwards can do: swaps the MAC addresses and transmits.
    #[xdp(frags)]
    fn floor(context: XdpContext) -> u32 {
        let mut frame = Frame::of(&context);
        swap_addresses(&mut frame).map_or(xdp_action::XDP_ABORTED, |()| xdp_action::XDP_TX)
    }

    #[inline(always)]
    fn swap_addresses(frame: &mut Frame) -> Option<()> {
        for offset in [0, 2, 4] {
            let destination: [u8; 2] = frame.read(offset)?;
            let source: [u8; 2] = frame.read(6 + offset)?;
            frame.write(offset, source)?;
            frame.write(6 + offset, destination)?;
        }
        Some(())
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
