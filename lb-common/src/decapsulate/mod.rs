//! The other end of an IP tunnel: takes the outer header off, on a backend that has no tunnel device.
//!
//! What is no tunnel packet of a balancer to this host is left to the kernel, which may have tunnels of its own. What is one
//! but cannot, or must not, be opened is dropped and counted: the kernel could do nothing with it either.

mod counter;
mod layout;

pub use counter::Counter;
pub use layout::{AddressKey, MAX_ADDRESSES, MAX_NETWORKS, Network, Sources, map, role};

use crate::{
    address::Address,
    forward::ipip::{IPV4_INSIDE, IPV6_INSIDE},
    headers::{
        checksum, ecn,
        ethernet::{self, ethertype},
        ipv4, ipv6,
    },
    packet::PacketBuffer,
};

/// Which tunnels this host opens, and how it counts.
pub trait Endpoint {
    /// What this host does with packets to an address: the sum of its [roles](role), 0 for a stranger's.
    fn role(&self, address: Address) -> u32;
    /// Whether tunnels from this address are accepted.
    fn accepts(&self, source: Address) -> bool;
    /// Counts a packet.
    fn count(&self, counter: Counter);
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The kernel's network stack gets it.
    Pass,
    /// Nobody gets it.
    Drop,
}

/// Opens the tunnel packet in a frame, if there is one for this host.
#[inline(always)]
pub fn process(packet: &mut impl PacketBuffer, endpoint: &impl Endpoint) -> Action {
    let Some(outer) = Outer::of(packet) else {
        return Action::Pass;
    };
    if endpoint.role(outer.destination) & role::ENDPOINT == 0 {
        return Action::Pass;
    }
    if !endpoint.accepts(outer.source) {
        endpoint.count(Counter::PassedSource);
        return Action::Pass;
    }
    let counter = match open(packet, &outer, endpoint) {
        Ok(()) => {
            endpoint.count(Counter::Decapsulated);
            return Action::Pass;
        }
        Err(counter) => counter,
    };
    endpoint.count(counter);
    Action::Drop
}

/// The header of a tunnel packet.
struct Outer {
    source: Address,
    destination: Address,
    /// Where the header is, in bytes from the start of the frame.
    offset: usize,
    /// Its length in bytes.
    header: usize,
    /// Where the packet ends, in bytes from the start of the frame, as the header says.
    end: usize,
    /// The protocol inside: [`IPV4_INSIDE`] or [`IPV6_INSIDE`].
    protocol: u8,
    /// DSCP and ECN.
    class: u8,
    /// Whether it is a part of a packet.
    is_fragment: bool,
}

impl Outer {
    /// `None` for everything but IPv4 and IPv6 that directly carry IPv4 or IPv6.
    #[inline(always)]
    fn of(packet: &impl PacketBuffer) -> Option<Self> {
        let ethernet::Payload { ethertype, offset } = ethernet::payload(packet)?;
        let outer = match ethertype {
            ethertype::IPV4 => {
                let ip = packet.read(offset).map(ipv4::Header::new)?;
                if !ip.is_well_formed() {
                    return None;
                }
                Self {
                    source: ip.source(),
                    destination: ip.destination(),
                    offset,
                    header: ip.header_length(),
                    end: offset + ip.total_length(),
                    protocol: ip.protocol(),
                    class: ip.class(),
                    is_fragment: ip.is_fragment(),
                }
            }
            ethertype::IPV6 => {
                let ip = packet.read(offset).map(ipv6::Header::new)?;
                if !ip.is_well_formed() {
                    return None;
                }
                Self {
                    source: ip.source(),
                    destination: ip.destination(),
                    offset,
                    header: ipv6::HEADER_LENGTH,
                    end: offset + ipv6::HEADER_LENGTH + ip.payload_length(),
                    // A fragment has another number here.
                    protocol: ip.next_header(),
                    class: ip.class(),
                    is_fragment: false,
                }
            }
            _ => return None,
        };
        matches!(outer.protocol, IPV4_INSIDE | IPV6_INSIDE).then_some(outer)
    }
}

/// Takes the outer header off a packet from a balancer to this host, or says under what it is to be dropped.
#[inline(always)]
fn open(packet: &mut impl PacketBuffer, outer: &Outer, endpoint: &impl Endpoint) -> Result<(), Counter> {
    if outer.is_fragment {
        return Err(Counter::DropFragment);
    }
    let inner = outer.offset + outer.header;
    let room = outer.end.checked_sub(inner).ok_or(Counter::DropMalformed)?;
    if !packet.has_length(outer.end) {
        return Err(Counter::DropMalformed);
    }
    if outer.protocol == IPV4_INSIDE {
        let ip = packet
            .read(inner)
            .map(ipv4::Header::new)
            .ok_or(Counter::DropMalformed)?;
        let length = ip.total_length();
        if !ip.is_well_formed() || length < ip.header_length() || length > room {
            return Err(Counter::DropMalformed);
        }
        check_destination(endpoint, ip.destination())?;
        let class = mark(ip.class(), outer.class)?;
        strip(packet, outer, ethertype::IPV4).ok_or(Counter::DropMalformed)?;
        if class != ip.class() {
            mark_v4(packet, outer.offset, class).ok_or(Counter::DropMalformed)?;
        }
    } else {
        let ip = packet
            .read(inner)
            .map(ipv6::Header::new)
            .ok_or(Counter::DropMalformed)?;
        if !ip.is_well_formed() || ip.payload_length() + ipv6::HEADER_LENGTH > room {
            return Err(Counter::DropMalformed);
        }
        check_destination(endpoint, ip.destination())?;
        let class = mark(ip.class(), outer.class)?;
        strip(packet, outer, ethertype::IPV6).ok_or(Counter::DropMalformed)?;
        if class != ip.class() {
            mark_v6(packet, outer.offset, class).ok_or(Counter::DropMalformed)?;
        }
    }
    Ok(())
}

#[inline(always)]
fn check_destination(endpoint: &impl Endpoint, destination: Address) -> Result<(), Counter> {
    if endpoint.role(destination) & role::VIP == 0 {
        return Err(Counter::DropDestination);
    }
    Ok(())
}

/// Writes the class of the IPv4 packet at `offset`, and corrects its checksum.
#[inline(always)]
fn mark_v4(packet: &mut impl PacketBuffer, offset: usize, class: u8) -> Option<()> {
    let before: [u8; 2] = packet.read(offset)?;
    let after = [before[0], class];
    let sum = packet
        .read(offset + ipv4::CHECKSUM_OFFSET)
        .map(u16::from_be_bytes)?;
    let sum = checksum::updated(sum, u16::from_be_bytes(before), u16::from_be_bytes(after));
    packet.write(offset, after)?;
    packet.write(offset + ipv4::CHECKSUM_OFFSET, sum.to_be_bytes())
}

/// Writes the class of the IPv6 packet at `offset`.
#[inline(always)]
fn mark_v6(packet: &mut impl PacketBuffer, offset: usize, class: u8) -> Option<()> {
    let word = packet.read(offset).map(u16::from_be_bytes)?;
    let word = word & !0x0ff0 | u16::from(class) << 4;
    packet.write(offset, word.to_be_bytes())
}

/// The inner packet's class with what congestion the outer one met.
#[inline(always)]
fn mark(inner: u8, outer: u8) -> Result<u8, Counter> {
    match ecn::leave(inner, outer) {
        Some(bits) => Ok(inner & !ecn::MASK | bits),
        None => Err(Counter::DropCongestion),
    }
}

/// Moves the Ethernet header, tags included, over the outer header.
#[inline(always)]
fn strip(packet: &mut impl PacketBuffer, outer: &Outer, ethertype: u16) -> Option<()> {
    const TAGS: usize = 2 * ethernet::ADDRESS_LENGTH;
    let addresses: [u8; TAGS] = packet.read(0)?;
    // Only what is there may be written again: behind it the inner packet begins.
    let first: [u8; ethernet::VLAN_TAG_LENGTH] = packet.read(TAGS)?;
    let second: [u8; ethernet::VLAN_TAG_LENGTH] = packet.read(TAGS + ethernet::VLAN_TAG_LENGTH)?;
    packet.shrink_front(outer.header)?;
    packet.write(0, addresses)?;
    if outer.offset > ethernet::HEADER_LENGTH {
        packet.write(TAGS, first)?;
    }
    if outer.offset > ethernet::HEADER_LENGTH + ethernet::VLAN_TAG_LENGTH {
        packet.write(TAGS + ethernet::VLAN_TAG_LENGTH, second)?;
    }
    packet.write(outer.offset - 2, ethertype.to_be_bytes())
}

#[cfg(test)]
mod tests;
