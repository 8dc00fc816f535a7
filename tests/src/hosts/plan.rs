//! The lab's address plan: who has which name, number, address and MAC.
//!
//! Everything is derived from one number per host, so that a packet capture can be read without a table:
//! `10.77.0.101`, `fd77::101` and `02:00:00:00:01:01` are all `backend1`. On other networks than the first, the network's
//! number is in the second byte and the fourth: `10.78.0.11`, `fd78::11` and `02:00:00:01:00:11` are all `balancer1` on
//! the backends' network.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Prefix length of the lab's IPv4 networks, such as 10.77.0.0/24.
pub const PREFIX_V4: u8 = 24;

/// Prefix length of the lab's IPv6 networks, such as `fd77::/64`.
pub const PREFIX_V6: u8 = 64;

/// A network of the lab: a bridge on its switch, and a prefix of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// Where balancers meet clients, and where the VIPs are: 10.77.0.0/24. In most labs there is no other.
    Front,
    /// Where the backends are if they are on a network of their own: 10.78.0.0/24.
    Back,
    /// Where remote clients are, behind the router: 10.79.0.0/24.
    Far,
}

impl Network {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Front, Self::Back, Self::Far];

    /// The network's number, which its addresses show.
    const fn number(self) -> u8 {
        match self {
            Self::Front => 0,
            Self::Back => 1,
            Self::Far => 2,
        }
    }

    /// The name of its bridge in the switch's namespace.
    pub const fn bridge(self) -> &'static str {
        match self {
            Self::Front => "br0",
            Self::Back => "br1",
            Self::Far => "br2",
        }
    }

    /// The address of number 0, which stands for the whole network.
    pub const fn v4(self) -> Ipv4Addr {
        v4(self, 0)
    }

    /// The same in IPv6.
    pub fn v6(self) -> Ipv6Addr {
        v6(self, 0)
    }
}

/// What a host of the lab is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs the load balancer.
    Balancer,
    /// Runs a server behind the balancer and holds the VIPs on its loopback interface.
    Backend,
    /// Connects to the VIPs.
    Client,
    /// A client on a network of its own, behind the router.
    Remote,
    /// Connects the networks, where there are several.
    Router,
}

impl Role {
    /// The role's name, which is also the beginning of its hosts' names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Balancer => "balancer",
            Self::Backend => "backend",
            Self::Client => "client",
            Self::Remote => "remote",
            Self::Router => "router",
        }
    }

    /// How many hosts of this role the plan has addresses for.
    pub const fn capacity(self) -> u8 {
        match self {
            Self::Balancer => 9,
            Self::Backend => 99,
            Self::Client | Self::Remote => 49,
            Self::Router => 1,
        }
    }

    /// The last octet before that of the role's first host.
    const fn base(self) -> u8 {
        match self {
            Self::Balancer => 10,
            Self::Backend => 100,
            Self::Client | Self::Remote => 200,
            Self::Router => 0,
        }
    }
}

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text.split(':').map(byte_of_digits).collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| format!("expected a MAC address such as 02:00:00:00:01:01, found {text:?}"))
    }
}

/// The byte that two hexadecimal digits stand for.
fn byte_of_digits(digits: &str) -> Option<u8> {
    let are_two = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    are_two.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The name and the interfaces of one host of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Role and number, such as `backend1`.
    pub name: String,
    /// What the host is for.
    pub role: Role,
    /// At least one.
    interfaces: Vec<Interface>,
}

/// An interface of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name on the host, such as `eth0`.
    pub name: String,
    /// The name of the cable's other end, on the switch: that of the host for its first interface.
    pub port: String,
    /// The network that it leads to.
    pub network: Network,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Its MAC address.
    pub mac: Mac,
}

impl Identity {
    /// The host with this role and number, counted from 1, with an interface on the first network and on each of the
    /// others; `None` beyond the role's [capacity](Role::capacity).
    pub fn new(role: Role, number: u8, first: Network, others: &[Network]) -> Option<Self> {
        if number == 0 || number > role.capacity() {
            return None;
        }
        let octet = role.base() + number;
        let [high, low] = digits(octet).to_be_bytes();
        let name = format!("{}{number}", role.name());
        let interface = |(index, &network): (usize, &Network)| {
            let interface = format!("eth{index}");
            let port = if index == 0 {
                name.clone()
            } else {
                format!("{name}-{interface}")
            };
            Interface {
                name: interface,
                port,
                network,
                v4: v4(network, octet),
                v6: v6(network, octet),
                mac: Mac([2, 0, 0, network.number(), high, low]),
            }
        };
        let networks = [&[first], others].concat();
        let interfaces = networks.iter().enumerate().map(interface).collect();
        Some(Self {
            name,
            role,
            interfaces,
        })
    }

    /// The first interface, `eth0`.
    pub fn first(&self) -> &Interface {
        &self.interfaces[0]
    }

    /// All interfaces, in the order of their names.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }
}

/// The virtual address of a service, in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Vip {
    /// How many VIPs the plan has addresses for.
    pub const CAPACITY: u8 = 40;

    /// The VIP with this number, counted from 1; `None` beyond [`Vip::CAPACITY`].
    pub fn new(number: u8) -> Option<Self> {
        (1..=Self::CAPACITY).contains(&number).then(|| Self {
            v4: v4(Network::Front, 50 + number),
            v6: v6(Network::Front, 50 + number),
        })
    }
}

const fn v4(network: Network, octet: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77 + network.number(), 0, octet)
}

fn v6(network: Network, octet: u8) -> Ipv6Addr {
    let prefix = 0xfd00 | digits(77 + network.number());
    Ipv6Addr::new(prefix, 0, 0, 0, 0, 0, 0, digits(octet))
}

/// The number whose hexadecimal digits are the decimal digits of `octet`: 101 becomes 0x101.
fn digits(octet: u8) -> u16 {
    let octet = u16::from(octet);
    (octet / 100) << 8 | (octet / 10 % 10) << 4 | (octet % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const ROLES: [Role; 5] = [
        Role::Balancer,
        Role::Backend,
        Role::Client,
        Role::Remote,
        Role::Router,
    ];

    #[test]
    fn all_addresses_of_a_host_show_the_same_digits() {
        let host = Identity::new(Role::Client, 12, Network::Front, &[Network::Far]).unwrap();
        assert_eq!(host.name, "client12");
        let [eth0, eth1] = host.interfaces() else {
            panic!("two interfaces")
        };
        assert_eq!((&*eth0.name, &*eth0.port), ("eth0", "client12"));
        assert_eq!(eth0.v4.to_string(), "10.77.0.212");
        assert_eq!(eth0.v6.to_string(), "fd77::212");
        assert_eq!(eth0.mac.to_string(), "02:00:00:00:02:12");
        assert_eq!((&*eth1.name, &*eth1.port), ("eth1", "client12-eth1"));
        assert_eq!(eth1.v4.to_string(), "10.79.0.212");
        assert_eq!(eth1.v6.to_string(), "fd79::212");
        assert_eq!(eth1.mac.to_string(), "02:00:00:02:02:12");
    }

    #[test]
    fn every_port_has_a_name_that_the_kernel_takes() {
        for role in ROLES {
            let host = Identity::new(role, role.capacity(), Network::Front, &Network::ALL).unwrap();
            for interface in host.interfaces() {
                assert!(interface.port.len() < libc::IFNAMSIZ, "{}", interface.port);
            }
        }
    }

    #[test]
    fn mac_addresses_are_read_as_they_are_written() {
        let mac = Mac([2, 0, 0, 0, 1, 0xfe]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for text in [
            "",
            "02:00:00:00:01",
            "02:00:00:00:01:0",
            "02:00:00:00:01:+1",
            "02:00:00:00:01:01:01",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn no_address_is_given_twice() {
        // Remote clients have the numbers of clients, and never a network with them.
        let roles = ROLES.iter().filter(|&&role| role != Role::Remote);
        let all =
            |role: Role, number| Identity::new(role, number, Network::Front, &Network::ALL[1..]).unwrap();
        let hosts = roles.flat_map(|&role| (1..=role.capacity()).map(move |number| all(role, number)));
        let interfaces: Vec<_> = hosts.flat_map(|host| host.interfaces().to_vec()).collect();
        let vips = (1..=Vip::CAPACITY).map(|n| Vip::new(n).unwrap());
        let addresses: Vec<_> = interfaces
            .iter()
            .map(|interface| (interface.v4, interface.v6))
            .chain(vips.map(|vip| (vip.v4, vip.v6)))
            .collect();
        let v4: HashSet<_> = addresses.iter().map(|(v4, _)| v4).collect();
        let v6: HashSet<_> = addresses.iter().map(|(_, v6)| v6).collect();
        let macs: HashSet<_> = interfaces.iter().map(|interface| interface.mac).collect();
        assert_eq!((v4.len(), v6.len()), (addresses.len(), addresses.len()));
        assert_eq!(macs.len(), interfaces.len());
        let mut last_octets = addresses.iter().map(|(v4, _)| v4.octets()[3]);
        assert!(last_octets.all(|octet| octet != 0 && octet != 255));
    }

    #[test]
    fn numbers_outside_the_plan_have_no_host() {
        for role in ROLES {
            let host = |number| Identity::new(role, number, Network::Front, &[]);
            assert!(host(0).is_none());
            assert!(host(role.capacity() + 1).is_none());
        }
        assert!(Vip::new(0).is_none());
        assert!(Vip::new(Vip::CAPACITY + 1).is_none());
    }
}
