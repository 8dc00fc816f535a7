//! How the kernel would reach an address.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, NetlinkError, error::errno};

/// The kernel's way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The index of the interface on which packets leave.
    pub interface: Option<u32>,
    /// Whether they go through a router first.
    pub gateway: bool,
    /// Whether the address is this host's own.
    pub local: bool,
}

impl Netlink {
    /// Asks the kernel for the way to `address`.
    pub async fn route(&self, address: IpAddr) -> Result<Route, NetlinkError> {
        let request = match address {
            IpAddr::V4(address) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(address, 32)
                .build(),
            IpAddr::V6(address) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(address, 128)
                .build(),
        };
        match self.handle.route().get(request).execute().try_next().await {
            Ok(Some(message)) => Ok(Route::of(&message)),
            Ok(None) => Err(NetlinkError::NoRoute { address }),
            Err(error) if matches!(errno(&error), Some(ENETUNREACH | EHOSTUNREACH)) => {
                Err(NetlinkError::NoRoute { address })
            }
            Err(error) => Err(NetlinkError::request(format!(
                "asking for the route to {address}"
            ))(error)),
        }
    }
}

const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

impl Route {
    fn of(message: &RouteMessage) -> Self {
        let mut route = Self {
            interface: None,
            gateway: false,
            local: message.header.kind == RouteType::Local,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => route.interface = Some(*index),
                RouteAttribute::Gateway(RouteAddress::Inet(_) | RouteAddress::Inet6(_))
                | RouteAttribute::Via(_) => route.gateway = true,
                _ => {}
            }
        }
        route
    }
}
