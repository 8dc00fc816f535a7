//! Networks: an address and how many of its bits count.

use std::{fmt, net::IpAddr, str::FromStr};

/// A network, such as 198.18.0.0/16. The bits behind the prefix are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not an address, a slash and a number.
    #[error("expected a network, as in 198.18.0.0/16 or 100::/64, found {0:?}")]
    Shape(String),
    /// More bits than the family's addresses have.
    #[error("expected at most {most} bits behind the slash, found {found}")]
    Length {
        /// The family's.
        most: u8,
        /// What was written.
        found: u8,
    },
    /// An address inside of a network instead of the network.
    #[error("expected a network, found the address of one of its hosts; write {network}")]
    Host {
        /// The network.
        network: Prefix,
    },
}

impl Prefix {
    /// The network of `length` bits that begins with `address`. Bits behind the prefix are taken for 0; a length beyond the
    /// family's for the whole address.
    pub fn of(address: IpAddr, length: u8) -> Self {
        let length = length.min(bits(address));
        Self {
            address: masked(address, length),
            length,
        }
    }

    /// The first address.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits all addresses of the network share.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether an address is in the network.
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.length) == self.address
    }
}

/// How many bits addresses of this family have.
const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all bits behind the first `length` cleared.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    let behind = u32::from(bits(address) - length);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(behind).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let shape = || PrefixError::Shape(text.chars().take(60).collect());
        let (address, length) = text.split_once('/').ok_or_else(shape)?;
        let address: IpAddr = address.parse().map_err(|_| shape())?;
        // The standard library would also take a sign.
        let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 = length.parse().ok().filter(|_| is_number).ok_or_else(shape)?;
        if length > bits(address) {
            return Err(PrefixError::Length {
                most: bits(address),
                found: length,
            });
        }
        let network = Self::of(address, length);
        if network.address == address {
            Ok(network)
        } else {
            Err(PrefixError::Host { network })
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_network_is_refused_with_a_reason() {
        let refused = |text: &str| text.parse::<Prefix>().unwrap_err().to_string();
        for text in [
            "",
            "10.0.0.0",
            "10.0.0/8",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/256",
            "a/8",
            "::/0/0",
        ] {
            assert!(refused(text).starts_with("expected a network, as in"), "{text}");
        }
        assert_eq!(
            refused("10.0.0.0/33"),
            "expected at most 32 bits behind the slash, found 33"
        );
        assert_eq!(
            refused("::/129"),
            "expected at most 128 bits behind the slash, found 129"
        );
        assert_eq!(
            refused("198.18.0.1/16"),
            "expected a network, found the address of one of its hosts; write 198.18.0.0/16"
        );
    }

    #[test]
    fn the_ends_of_a_network_are_inside_and_their_neighbours_are_not() {
        let network: Prefix = "198.18.0.0/16".parse().unwrap();
        let contains = |address: [u8; 4]| network.contains(address.into());
        assert!(contains([198, 18, 0, 0]) && contains([198, 18, 255, 255]));
        assert!(!contains([198, 17, 255, 255]) && !contains([198, 19, 0, 0]));
        assert!(
            !network.contains("::ffff:198.18.0.1".parse().unwrap()),
            "another family"
        );
        let all: Prefix = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains([255; 4].into()) && !all.contains("::".parse().unwrap()));
        let one: Prefix = "2001:db8::1/128".parse().unwrap();
        assert!(
            one.contains("2001:db8::1".parse().unwrap()) && !one.contains("2001:db8::2".parse().unwrap())
        );
    }

    proptest! {
        #[test]
        fn networks_survive_printing(address: IpAddr, length: u8) {
            let network = Prefix::of(address, length);
            prop_assert_eq!(network.to_string().parse(), Ok(network));
            prop_assert!(network.contains(address));
        }
    }
}
