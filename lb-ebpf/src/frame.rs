//! The frame that an XDP program was called for.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use lb_common::packet::{Packet, PacketBuffer, PacketMut};

/// The linear part of a frame.
///
/// Holds the two pointers beside the context, so that each is loaded from the context once.
pub struct Frame {
    context: *mut xdp_md,
    start: usize,
    end: usize,
}

impl Frame {
    /// The frame of `context`. No other may be in use after one has grown or shrunk.
    #[inline(always)]
    pub fn of(context: &XdpContext) -> Self {
        let context = context.ctx;
        // SAFETY: the context is the one that the kernel gave. Volatile, so that the compiler does not read the pointers before it
        // calls a function that takes the context, and hand them over as numbers instead: to the verifier they would be no
        // pointers any more.
        let [start, end] = unsafe {
            [
                core::ptr::read_volatile(&raw const (*context).data),
                core::ptr::read_volatile(&raw const (*context).data_end),
            ]
        };
        Self {
            context,
            start: start as usize,
            end: end as usize,
        }
    }

    /// The context, for functions of their own, which make a frame of it anew.
    #[inline(always)]
    pub const fn context(&self) -> *mut xdp_md {
        self.context
    }

    /// Takes the two pointers from the context again, after the kernel has moved head or tail.
    #[inline(always)]
    fn moved(&mut self, result: i64) -> Option<()> {
        *self = Self::of(&XdpContext::new(self.context));
        if result == 0 { Some(()) } else { None }
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

impl Packet for Frame {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let address = self.range(offset, N)? as *const [u8; N];
        // SAFETY: `range` has checked that N bytes from `address` are inside the frame, which nobody else
        // writes while the program runs. Bytes have no alignment and no invalid values.
        Some(unsafe { address.read_unaligned() })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // After a comparison with the length the compiler would otherwise prove a later comparison with `end` superfluous and
        // leave it out, but that comparison is the only proof that the verifier understands.
        Self::forget(self.end - self.start)
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
        let change = length as i32 - self.length() as i32;
        // SAFETY: as in `grow_front`.
        let result = unsafe { bpf_xdp_adjust_tail(self.context, change) };
        self.moved(result)
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the context is the one that the kernel gave, of which programs may read this field.
        unsafe { (*self.context).ingress_ifindex }
    }
}
