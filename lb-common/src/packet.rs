//! Access to the bytes of a frame, whatever holds them.

/// A frame as received, starting with its Ethernet header.
///
/// Reads are by value and bounds-checked, because that is the only access that the kernel's verifier can follow: a
/// read compares one pointer with the end of the packet and then loads. An implementation must be cheap to inline.
pub trait Packet {
    /// The `N` bytes at `offset` from the start of the frame, or `None` when the frame ends before.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The length of the frame in bytes, Ethernet header included, frame check sequence excluded.
    fn length(&self) -> usize;
}

/// A frame whose bytes can be changed in place.
pub trait PacketMut: Packet {
    /// Writes `bytes` at `offset`. Returns `None`, and changes nothing, when the frame ends before.
    #[must_use]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;
}

impl Packet for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }

    fn length(&self) -> usize {
        self.len()
    }
}

impl PacketMut for [u8] {
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        *self.get_mut(offset..)?.first_chunk_mut()? = bytes;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_end_where_the_frame_ends() {
        let frame: &[u8] = &[1, 2, 3, 4];
        assert_eq!(frame.read::<2>(2), Some([3, 4]));
        assert_eq!(frame.read::<2>(3), None);
        assert_eq!(frame.read::<1>(4), None);
        assert_eq!(frame.read::<1>(usize::MAX), None);
    }

    #[test]
    fn a_write_that_does_not_fit_changes_nothing() {
        let mut frame = [0u8; 4];
        assert_eq!(frame.as_mut_slice().write(3, [9, 9]), None);
        assert_eq!(frame, [0; 4]);
        assert_eq!(frame.as_mut_slice().write(2, [9, 9]), Some(()));
        assert_eq!(frame, [0, 0, 9, 9]);
    }
}
