//! Which tunnels a backend opens: follows from its addresses and what the operator says.

use std::net::IpAddr;

use lb_common::decapsulate::{MAX_ADDRESSES, MAX_NETWORKS};

use super::{
    config::{IPIP_SOURCE_IPV4, IPIP_SOURCE_IPV6},
    prefix::Prefix,
};

/// Which tunnels a backend opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnels {
    /// From where they may come.
    pub sources: Vec<Prefix>,
    /// The addresses of this host at which they end.
    pub endpoints: Vec<IpAddr>,
    /// The addresses to which the packets inside may be.
    pub vips: Vec<IpAddr>,
}

/// Why no tunnel could be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelsError {
    /// Nowhere to send them to.
    #[error("expected an address on {interface}, where tunnels could end, found none; give it one")]
    NoEndpoint {
        /// The interface.
        interface: String,
    },
    /// Nothing could come out of them.
    #[error(
        "expected a VIP on the loopback interface, found none: `ip address add VIP/32 dev lo` adds one; \
         or name the VIPs with --vip"
    )]
    NoVip,
    /// More than the tables hold.
    #[error("expected at most {most} {what}, found {found}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
        /// How many there are.
        found: usize,
    },
}

impl Tunnels {
    /// Tunnels to the addresses of an interface, `on_interface`. Unless `vips` names them, the packets inside may be to the
    /// addresses that this host has on its loopback interface, but for 127.0.0.0/8 and `::1`. Unless `from` names them, they
    /// come from the default outer sources of balancers.
    pub fn of(
        interface: &str,
        on_interface: Vec<IpAddr>,
        on_loopback: Vec<IpAddr>,
        vips: &[IpAddr],
        from: &[Prefix],
    ) -> Result<Self, TunnelsError> {
        let vips = if vips.is_empty() {
            on_loopback
                .into_iter()
                .filter(|address| !address.is_loopback())
                .collect()
        } else {
            vips.to_vec()
        };
        let sources = if from.is_empty() {
            [IPIP_SOURCE_IPV4, IPIP_SOURCE_IPV6]
                .map(|(address, length)| Prefix::of(address, length))
                .to_vec()
        } else {
            from.to_vec()
        };
        let tunnels = Self {
            sources,
            endpoints: on_interface,
            vips,
        };
        tunnels.check(interface)?;
        Ok(tunnels)
    }

    fn check(&self, interface: &str) -> Result<(), TunnelsError> {
        if self.endpoints.is_empty() {
            return Err(TunnelsError::NoEndpoint {
                interface: interface.to_owned(),
            });
        }
        if self.vips.is_empty() {
            return Err(TunnelsError::NoVip);
        }
        let limits = [
            (
                "addresses",
                MAX_ADDRESSES as usize,
                self.endpoints.len() + self.vips.len(),
            ),
            ("networks with --from", MAX_NETWORKS, self.sources.len()),
        ];
        match limits.into_iter().find(|(_, most, found)| found > most) {
            Some((what, most, found)) => Err(TunnelsError::TooMany { what, most, found }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn of(on_interface: &[&str], on_loopback: &[&str], vips: &[&str]) -> Result<Tunnels, TunnelsError> {
        let (interface, loopback) = (addresses(on_interface), addresses(on_loopback));
        Tunnels::of("eth0", interface, loopback, &addresses(vips), &[])
    }

    #[test]
    fn vips_are_what_loopback_has_beyond_its_own() {
        let tunnels = of(
            &["192.0.2.21", "fe80::1"],
            &["127.0.0.1", "192.0.2.10", "::1", "2001:db8::10", "127.1.2.3"],
            &[],
        );
        let tunnels = tunnels.unwrap();
        assert_eq!(tunnels.endpoints, addresses(&["192.0.2.21", "fe80::1"]));
        assert_eq!(tunnels.vips, addresses(&["192.0.2.10", "2001:db8::10"]));
        let sources: Vec<_> = tunnels.sources.iter().map(ToString::to_string).collect();
        assert_eq!(sources, ["198.18.0.0/16", "100::/64"]);
    }

    #[test]
    fn what_the_operator_says_counts_alone() {
        let from = ["10.255.0.0/16".parse().unwrap()];
        let (interface, loopback) = (addresses(&["192.0.2.21"]), addresses(&["192.0.2.10"]));
        let tunnels = Tunnels::of("eth0", interface, loopback, &addresses(&["192.0.2.11"]), &from).unwrap();
        assert_eq!(tunnels.vips, addresses(&["192.0.2.11"]));
        assert_eq!(tunnels.sources, from);
    }

    #[test]
    fn tunnels_without_ends_are_refused() {
        assert!(matches!(
            of(&[], &["192.0.2.10"], &[]),
            Err(TunnelsError::NoEndpoint { .. })
        ));
        assert_eq!(
            of(&["192.0.2.21"], &["127.0.0.1", "::1"], &[]),
            Err(TunnelsError::NoVip)
        );
        let nine: Vec<Prefix> = (0..9).map(|n| Prefix::of([10, n, 0, 0].into(), 16)).collect();
        let (interface, loopback) = (addresses(&["192.0.2.21"]), addresses(&["192.0.2.10"]));
        let error = Tunnels::of("eth0", interface, loopback, &[], &nine).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected at most 8 networks with --from, found 9"
        );
    }
}
