//! Access to the bytes of a frame, whatever holds them.

/// A frame as received, starting with its Ethernet header.
///
/// Reads are by value and bounds-checked, because that is the only access that the kernel's verifier can follow: a
/// read compares one pointer with the end of the packet and then loads. An implementation must be cheap to inline.
pub trait Packet {
    /// The `N` bytes at `offset` from the start of the frame, or `None` when the frame ends before.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Whether the frame has at least `length` bytes, counted as in [`Packet::length`], wherever they are: also where they
    /// cannot be read, in the fragments of a frame that is longer than one of the driver's buffers.
    fn has_length(&self, length: usize) -> bool {
        length <= self.length()
    }

    /// The length of the frame in bytes, Ethernet header included, frame check sequence excluded.
    ///
    /// An implementation may leave out fragments until [`Packet::has_length`] has been asked for bytes that are in them: to
    /// find out whether there are any costs time, and most frames have none. So the length covers whatever a packet's own
    /// headers claim, once they have been checked.
    fn length(&self) -> usize;

    /// The same offset, of which the compiler knows nothing any more.
    ///
    /// For a second access behind an offset that is not constant: the compiler would prove its bounds check superfluous from the
    /// first one's, and remove the very comparison that the kernel's verifier needs.
    #[inline(always)]
    fn forget(offset: usize) -> usize {
        offset
    }
}

/// A frame whose bytes can be changed in place.
pub trait PacketMut: Packet {
    /// Writes `bytes` at `offset`. Returns `None`, and changes nothing, when the frame ends before.
    #[must_use]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;

    /// Writes words, given in host byte order, at `offset` in network byte order. Returns `None` when the frame ends before.
    ///
    /// For headers: in the kernel program, words are stored whole after one comparison, an array of bytes is not.
    #[inline(always)]
    #[must_use]
    fn write_words<const N: usize>(&mut self, offset: usize, words: [u32; N]) -> Option<()> {
        for (index, word) in words.into_iter().enumerate() {
            self.write(offset + index * 4, word.to_be_bytes())?;
        }
        Some(())
    }
}

/// A frame that can also become longer or shorter.
pub trait PacketBuffer: PacketMut {
    /// Makes room for `bytes` more in front of the frame. What stands there is undefined, offsets count from the new start.
    /// Returns `None`, and changes nothing, when there is no room.
    #[must_use]
    fn grow_front(&mut self, bytes: usize) -> Option<()>;

    /// Takes `bytes` off the front of the frame. Returns `None`, and changes nothing, when it would have no Ethernet header left.
    #[must_use]
    fn shrink_front(&mut self, bytes: usize) -> Option<()>;

    /// Makes the frame `length` bytes long by cutting or extending its end; what is added is 0. Returns `None`, and changes
    /// nothing, when there is no room or it would have no Ethernet header left.
    #[must_use]
    fn set_length(&mut self, length: usize) -> Option<()>;

    /// The index of the interface on which the frame came in.
    fn ingress(&self) -> u32;
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

/// Frames in memory, as long as a driver's buffers let them become.
#[cfg(any(test, feature = "testing"))]
mod buffer {
    use super::{Packet, PacketBuffer, PacketMut};
    use crate::headers::ethernet;
    use std::vec::Vec;

    /// Room for a jumbo frame and what is put before it, in bytes: more than any tunnel needs.
    pub const ROOM: usize = 16_384;

    /// The interface of all of them: the kernel's loopback interface, on which its test runs of programs are.
    const INGRESS: u32 = 1;

    impl Packet for Vec<u8> {
        fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
            self.as_slice().read(offset)
        }

        fn length(&self) -> usize {
            self.len()
        }
    }

    impl PacketMut for Vec<u8> {
        fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
            self.as_mut_slice().write(offset, bytes)
        }
    }

    impl PacketBuffer for Vec<u8> {
        fn grow_front(&mut self, bytes: usize) -> Option<()> {
            if self.len() + bytes > ROOM {
                return None;
            }
            self.splice(0..0, std::iter::repeat_n(0, bytes));
            Some(())
        }

        fn shrink_front(&mut self, bytes: usize) -> Option<()> {
            if self.len() < bytes + ethernet::HEADER_LENGTH {
                return None;
            }
            self.drain(..bytes);
            Some(())
        }

        fn set_length(&mut self, length: usize) -> Option<()> {
            if !(ethernet::HEADER_LENGTH..=ROOM).contains(&length) {
                return None;
            }
            self.resize(length, 0);
            Some(())
        }

        fn ingress(&self) -> u32 {
            INGRESS
        }
    }
}

#[cfg(any(test, feature = "testing"))]
pub use buffer::ROOM;

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

    #[test]
    fn a_frame_grows_and_shrinks_at_both_ends() {
        let mut frame = std::vec::Vec::from([1u8; 20]);
        assert_eq!(frame.grow_front(4), Some(()));
        assert_eq!((frame.len(), frame[4]), (24, 1));
        assert_eq!(frame.shrink_front(11), None, "13 bytes are no frame");
        assert_eq!(frame.shrink_front(4), Some(()));
        assert_eq!(frame, [1; 20]);
        assert_eq!(frame.set_length(13), None);
        assert_eq!(frame.set_length(21), Some(()));
        assert_eq!(frame[20], 0);
        assert_eq!(frame.grow_front(1 << 20), None);
    }
}
