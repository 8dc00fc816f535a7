//! Ethernet (IEEE 802.3) with up to two VLAN tags (IEEE 802.1Q, 802.1ad).

use crate::packet::Packet;

/// Length of a MAC address, in bytes. The destination's comes first, then the source's.
pub const ADDRESS_LENGTH: usize = 6;
/// Length of an Ethernet header without tags, in bytes.
pub const HEADER_LENGTH: usize = 14;
/// Length of one VLAN tag, in bytes.
pub const VLAN_TAG_LENGTH: usize = 4;
/// Tags that are looked through; a frame with more goes to the kernel.
pub const MAX_VLAN_TAGS: usize = 2;

/// The type of the payload, in host byte order.
pub mod ethertype {
    /// IPv4, RFC 894.
    pub const IPV4: u16 = 0x0800;
    /// IPv6, RFC 2464.
    pub const IPV6: u16 = 0x86dd;
    /// A customer VLAN tag, IEEE 802.1Q.
    pub const VLAN: u16 = 0x8100;
    /// A service VLAN tag, IEEE 802.1ad.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// What an Ethernet header leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Type of the payload behind all tags, host byte order. See [`ethertype`].
    pub ethertype: u16,
    /// Where the payload starts, in bytes from the start of the frame.
    pub offset: usize,
}

/// Finds the payload behind the Ethernet header and its tags; `None` when the frame ends before it.
#[inline(always)]
pub fn payload(packet: &(impl Packet + ?Sized)) -> Option<Payload> {
    let mut offset = HEADER_LENGTH;
    let mut ethertype = u16::from_be_bytes(packet.read(offset - 2)?);
    // Unrolled by hand: the common frame has no tag and must not pay for a loop.
    if is_tag(ethertype) {
        offset += VLAN_TAG_LENGTH;
        ethertype = u16::from_be_bytes(packet.read(offset - 2)?);
        if is_tag(ethertype) {
            offset += VLAN_TAG_LENGTH;
            ethertype = u16::from_be_bytes(packet.read(offset - 2)?);
        }
    }
    Some(Payload { ethertype, offset })
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn frame(types: &[u16]) -> Vec<u8> {
        let mut frame = Vec::from([0u8; 12]);
        for (depth, ethertype) in types.iter().enumerate() {
            if depth > 0 {
                frame.extend([0, 7]);
            }
            frame.extend(ethertype.to_be_bytes());
        }
        frame
    }

    #[test]
    fn tags_are_looked_through_two_deep() {
        let found = |types: &[u16]| payload(frame(types).as_slice());
        assert_eq!(
            found(&[0x0800]),
            Some(Payload {
                ethertype: 0x0800,
                offset: 14
            })
        );
        assert_eq!(
            found(&[0x8100, 0x0800]),
            Some(Payload {
                ethertype: 0x0800,
                offset: 18
            })
        );
        assert_eq!(
            found(&[0x88a8, 0x8100, 0x0800]),
            Some(Payload {
                ethertype: 0x0800,
                offset: 22
            })
        );
        assert_eq!(
            found(&[0x8100, 0x8100, 0x8100, 0x0800]),
            Some(Payload {
                ethertype: 0x8100,
                offset: 22
            }),
            "a third tag is nobody's payload type, so the frame goes to the kernel"
        );
    }

    #[test]
    fn a_frame_that_ends_in_its_header_has_no_payload() {
        for types in [&[0x0800][..], &[0x8100, 0x0800], &[0x8100, 0x8100, 0x0800]] {
            let whole = frame(types);
            assert!(payload(whole.as_slice()).is_some());
            for length in 0..whole.len() {
                let found = payload(&whole[..length]);
                // Cutting exactly between the tag and the next type is the only place where something remains.
                assert!(found.is_none(), "{types:x?} cut to {length} bytes gave {found:?}");
            }
        }
    }
}
