//! Changes of the kernel's network configuration, as they happen.

use futures::{Stream, StreamExt, channel::mpsc::UnboundedReceiver};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;

use super::{Neighbour, NetlinkError, interfaces};
use crate::core::interface::Interface;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A neighbour was found, changed or failed.
    Neighbour(Neighbour),
    /// An interface appeared or changed.
    Interface(Interface),
    /// An interface was deleted.
    InterfaceGone(Interface),
    /// A route was added, changed or removed: ways may lead elsewhere.
    Routes,
    /// The kernel had more to say than the socket could hold: something was missed, list everything anew.
    Overrun,
}

/// A subscription to changes of links, neighbours and routes.
pub struct Watch {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
}

impl Watch {
    /// Subscribes in the network namespace of the calling thread. Must be called within a tokio runtime.
    pub fn start() -> Result<Self, NetlinkError> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Neigh,
            MulticastGroup::Link,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])
        .map_err(NetlinkError::Connect)?;
        tokio::spawn(connection);
        Ok(Self { messages })
    }

    /// The changes. Ends only with the connection.
    pub fn events(self) -> impl Stream<Item = Event> + Send + Unpin {
        self.messages
            .filter_map(|(message, _)| std::future::ready(event(&message)))
    }
}

fn event(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    match &message.payload {
        NetlinkPayload::Overrun(_) => Some(Event::Overrun),
        NetlinkPayload::InnerMessage(message) => match message {
            RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message) => {
                Neighbour::of(message).map(Event::Neighbour)
            }
            // What a bridge says about its ports comes as links too, deletions included.
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
                if message.header.interface_family == AddressFamily::Bridge =>
            {
                None
            }
            RouteNetlinkMessage::NewLink(message) => Some(Event::Interface(interfaces::parse(message))),
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => Some(Event::Routes),
            RouteNetlinkMessage::DelLink(message) => Some(Event::InterfaceGone(interfaces::parse(message))),
            _ => None,
        },
        _ => None,
    }
}
