//! The lab's address plan: who has which name, number, address and MAC.
//!
//! Everything is derived from one number per host, so that a packet capture can be read without a table:
//! `10.77.0.101`, `fd77::101` and `02:00:00:00:01:01` are all `backend1`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Prefix length of the lab's IPv4 network, 10.77.0.0/24.
pub const PREFIX_V4: u8 = 24;

/// Prefix length of the lab's IPv6 network, `fd77::/64`.
pub const PREFIX_V6: u8 = 64;

/// What a host of the lab is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs the load balancer.
    Balancer,
    /// Runs a server behind the balancer and holds the VIPs on its loopback interface.
    Backend,
    /// Connects to the VIPs.
    Client,
}

impl Role {
    /// The role's name, which is also the beginning of its hosts' names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Balancer => "balancer",
            Self::Backend => "backend",
            Self::Client => "client",
        }
    }

    /// How many hosts of this role the plan has addresses for.
    pub const fn capacity(self) -> u8 {
        match self {
            Self::Balancer => 9,
            Self::Backend => 99,
            Self::Client => 49,
        }
    }

    /// The last octet before that of the role's first host.
    const fn base(self) -> u8 {
        match self {
            Self::Balancer => 10,
            Self::Backend => 100,
            Self::Client => 200,
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

/// The name and the addresses of one host of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Role and number, such as `backend1`.
    pub name: String,
    /// What the host is for.
    pub role: Role,
    /// Its IPv4 address on `eth0`.
    pub v4: Ipv4Addr,
    /// Its IPv6 address on `eth0`.
    pub v6: Ipv6Addr,
    /// The MAC address of `eth0`.
    pub mac: Mac,
}

impl Identity {
    /// The host with this role and number, counted from 1; `None` beyond the role's [capacity](Role::capacity).
    pub fn new(role: Role, number: u8) -> Option<Self> {
        if number == 0 || number > role.capacity() {
            return None;
        }
        let octet = role.base() + number;
        let [high, low] = digits(octet).to_be_bytes();
        Some(Self {
            name: format!("{}{number}", role.name()),
            role,
            v4: v4(octet),
            v6: v6(octet),
            mac: Mac([2, 0, 0, 0, high, low]),
        })
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
            v4: v4(50 + number),
            v6: v6(50 + number),
        })
    }
}

fn v4(octet: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, octet)
}

fn v6(octet: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, digits(octet))
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

    const ROLES: [Role; 3] = [Role::Balancer, Role::Backend, Role::Client];

    #[test]
    fn all_addresses_of_a_host_show_the_same_digits() {
        let host = Identity::new(Role::Client, 12).unwrap();
        assert_eq!(host.name, "client12");
        assert_eq!(host.v4.to_string(), "10.77.0.212");
        assert_eq!(host.v6.to_string(), "fd77::212");
        assert_eq!(host.mac.to_string(), "02:00:00:00:02:12");
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
        let hosts = ROLES
            .iter()
            .flat_map(|&role| (1..=role.capacity()).map(move |n| Identity::new(role, n)));
        let vips = (1..=Vip::CAPACITY).map(|n| Vip::new(n).unwrap());
        let all: Vec<_> = hosts
            .map(|host| host.map(|host| (host.v4, host.v6)).unwrap())
            .chain(vips.map(|vip| (vip.v4, vip.v6)))
            .collect();
        assert_eq!(
            all.iter().map(|(v4, _)| v4).collect::<HashSet<_>>().len(),
            all.len()
        );
        assert_eq!(
            all.iter().map(|(_, v6)| v6).collect::<HashSet<_>>().len(),
            all.len()
        );
        assert!(
            all.iter()
                .all(|(v4, _)| v4.octets()[3] != 0 && v4.octets()[3] != 255)
        );
    }

    #[test]
    fn numbers_outside_the_plan_have_no_host() {
        for role in ROLES {
            assert!(Identity::new(role, 0).is_none());
            assert!(Identity::new(role, role.capacity() + 1).is_none());
        }
        assert!(Vip::new(0).is_none());
        assert!(Vip::new(Vip::CAPACITY + 1).is_none());
    }
}
