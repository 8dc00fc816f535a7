//! The frame that an XDP program was called for.

use core::cell::Cell;

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use lb_common::packet::{Packet, PacketBuffer, PacketMut};

/// The frame, of which the linear part can be read and written.
///
/// A frame that is longer than one of the driver's buffers goes on in fragments. Drivers put the headers into the linear part;
/// nobody needs to see more. How long the whole is only the kernel knows, and it is asked only about a packet that does not end
/// in the linear part.
///
/// Holds the two pointers beside the context, so that each is loaded from the context once.
pub struct Frame {
    context: *mut xdp_md,
    start: usize,
    end: usize,
    /// How many bytes are in fragments, as far as has been asked.
    fragments: Cell<usize>,
}

impl Frame {
    /// The frame of `context`. No other may be in use after one has grown or shrunk.
    #[inline(always)]
    pub fn of(context: &XdpContext) -> Self {
        let context = context.ctx;
        // SAFETY: the context is the one that the kernel gave, and valid while the program runs.
        let fields = unsafe { &*context };
        let (start, end) = (load(&fields.data), load(&fields.data_end));
        Self {
            context,
            start: start as usize,
            end: end as usize,
            fragments: Cell::new(0),
        }
    }

    /// The context, for functions of their own, which make a frame of it anew. This one must not be used any more after
    /// such a function has changed the frame's length.
    #[inline(always)]
    pub(crate) const fn context(&self) -> *mut xdp_md {
        self.context
    }

    /// Takes the two pointers from the context again, after the kernel has moved head or tail.
    #[inline(always)]
    fn moved(&mut self, result: i64) -> Option<()> {
        let context = XdpContext::new(self.context);
        self.start = context.data();
        self.end = context.data_end();
        if result == 0 { Some(()) } else { None }
    }

    /// The length of the linear part.
    #[inline(always)]
    fn linear_length(&self) -> usize {
        // After a comparison with the length the compiler would otherwise prove a later comparison with `end` superfluous and
        // leave it out, but that comparison is the only proof that the verifier understands.
        Self::forget(self.end - self.start)
    }

    /// The length of the linear part and all fragments, by the kernel.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a frame is shorter than 2^32 bytes"
    )]
    fn whole_length(&self) -> usize {
        // SAFETY: the context is the one that the kernel gave; the helper only reads it.
        unsafe { bpf_xdp_get_buff_len(self.context) as usize }
    }

    /// The address of `length` bytes at `offset`, if they are all in the frame.
    #[inline(always)]
    fn range(&self, offset: usize, length: usize) -> Option<usize> {
        let address = self.start + offset;
        // This comparison is what lets the verifier accept the access that follows.
        if address + length > self.end {
            None
        } else {
            Some(address)
        }
    }
}

/// Loads a pointer from the context. Volatile, so that the compiler does not load it before it calls a function that takes the
/// context, and hand it over as a number instead: to the verifier that would be no pointer any more.
#[inline(always)]
fn load(field: &u32) -> u32 {
    // SAFETY: a reference can be read from.
    unsafe { core::ptr::read_volatile(field) }
}

impl Packet for Frame {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let address = self.range(offset, N)? as *const [u8; N];
        // SAFETY: `range` has checked that N bytes from `address` are inside the frame, which nobody else
        // writes while the program runs. Bytes have no alignment and no invalid values.
        Some(unsafe { address.read_unaligned() })
    }

    #[inline(always)]
    fn has_length(&self, length: usize) -> bool {
        let linear = self.linear_length();
        if length <= linear {
            return true;
        }
        let whole = self.whole_length();
        self.fragments.set(whole - linear);
        length <= whole
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.linear_length() + self.fragments.get()
    }

    #[inline(always)]
    fn forget(offset: usize) -> usize {
        // SAFETY: a local variable can be read. Volatile, so that the compiler does not know the result.
        unsafe { core::ptr::read_volatile(&raw const offset) }
    }
}

impl PacketMut for Frame {
    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let address = self.range(offset, N)? as *mut [u8; N];
        // SAFETY: as in `read`; XDP frames are writable.
        unsafe { address.write_unaligned(bytes) };
        Some(())
    }

    #[inline(always)]
    fn write_words<const N: usize>(&mut self, offset: usize, words: [u32; N]) -> Option<()> {
        let address = self.range(offset, size_of::<[u32; N]>())? as *mut u32;
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: `range` has checked that there are N words from `address`; else as in `write`.
            unsafe { address.wrapping_add(index).write_unaligned(word.to_be()) };
        }
        Some(())
    }
}

impl PacketBuffer for Frame {
    #[inline(always)]
    #[expect(
        clippy::cast_possible_wrap,
        clippy::cast_possible_truncation,
        reason = "a few bytes"
    )]
    fn grow_front(&mut self, bytes: usize) -> Option<()> {
        // SAFETY: the context is the one that the kernel gave. The helper ends the validity of pointers into the frame, which
        // `moved` replaces.
        let result = unsafe { bpf_xdp_adjust_head(self.context, -(bytes as i32)) };
        self.moved(result)
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_wrap,
        clippy::cast_possible_truncation,
        reason = "a few bytes"
    )]
    fn shrink_front(&mut self, bytes: usize) -> Option<()> {
        // SAFETY: as in `grow_front`.
        let result = unsafe { bpf_xdp_adjust_head(self.context, bytes as i32) };
        self.moved(result)
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_wrap,
        clippy::cast_possible_truncation,
        reason = "a frame is shorter than 2^31 bytes"
    )]
    fn set_length(&mut self, length: usize) -> Option<()> {
        let change = length as i32 - self.whole_length() as i32;
        // SAFETY: as in `grow_front`.
        let result = unsafe { bpf_xdp_adjust_tail(self.context, change) };
        let moved = self.moved(result);
        self.fragments.set(self.whole_length() - self.linear_length());
        moved
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the context is the one that the kernel gave, of which programs may read this field.
        unsafe { (*self.context).ingress_ifindex }
    }
}
