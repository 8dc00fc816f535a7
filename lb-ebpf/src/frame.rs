//! The frame that an XDP program was called for.

use aya_ebpf::programs::XdpContext;
use lb_common::packet::{Packet, PacketMut};

/// The linear part of a frame.
///
/// Holds the two pointers instead of the context, so that each is loaded from the context once.
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// The frame of `context`. Must be made anew after the frame's head or tail was moved.
    #[inline(always)]
    pub fn of(context: &XdpContext) -> Self {
        Self {
            start: context.data(),
            end: context.data_end(),
        }
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
        let length = self.end - self.start;
        // SAFETY: a local variable can be read. Volatile, so that the compiler does not know the result: after a
        // comparison with the length it would otherwise prove a later comparison with `end` superfluous and leave it
        // out, but that comparison is the only proof that the verifier understands.
        unsafe { core::ptr::read_volatile(&raw const length) }
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
