//! What forwarding changes in a packet, and what is answered instead.

pub mod ipip;
mod packet_too_big;
mod reset;

pub use packet_too_big::packet_too_big;
pub use reset::reset;

use crate::{layout::Target, packet::PacketMut};

/// Direct server return: addresses the frame to the target's next hop and changes nothing else.
///
/// The backend holds the VIP itself and answers the client directly. `None` when the frame has no room for two MAC
/// addresses, which no frame that was parsed can lack.
#[inline(always)]
#[must_use]
pub fn direct_server_return(packet: &mut (impl PacketMut + ?Sized), target: &Target) -> Option<()> {
    packet.write(0, target.addresses())
}
