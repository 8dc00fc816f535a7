//! How the kernel would reach an address.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, NetlinkError, error::errno};

/// The kernel's way to an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The index of the interface on which packets leave.
    pub interface: Option<u32>,
    /// The router to which they go first. Its family may be another one than the address's (RFC 8950), and an IPv6 router's
    /// address is link-local most of the time.
    pub gateway: Option<IpAddr>,
    /// The longest packet that the route takes, in bytes, if an operator has set it or the kernel has learned it.
    pub mtu: Option<u32>,
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
            // The last two are the answers of routes of the types `prohibit` and `blackhole`.
            Err(error) if matches!(errno(&error), Some(ENETUNREACH | EHOSTUNREACH | EACCES | EINVAL)) => {
                Err(NetlinkError::NoRoute { address })
            }
            Err(error) => Err(NetlinkError::request(format!(
                "asking for the route to {address}"
            ))(error)),
        }
    }
}

const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

impl Route {
    fn of(message: &RouteMessage) -> Self {
        let mut route = Self {
            local: message.header.kind == RouteType::Local,
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => route.interface = Some(*index),
                RouteAttribute::Gateway(RouteAddress::Inet(router))
                | RouteAttribute::Via(RouteVia::Inet(router)) => {
                    route.gateway = Some((*router).into());
                }
                RouteAttribute::Gateway(RouteAddress::Inet6(router))
                | RouteAttribute::Via(RouteVia::Inet6(router)) => {
                    route.gateway = Some((*router).into());
                }
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        route
    }
}
