//! Who the targets are: what the controller writes down about them for its next run. The data path never looks.

use core::net::IpAddr;

use crate::address::Address;

/// The longest name of a backend, in bytes.
pub const NAME_LENGTH: usize = 63;

/// Whom a target id stands for: one backend of one service.
///
/// A backend with the same name at another address is another machine, hence another target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct TargetName {
    /// The backend's own address.
    address: Address,
    /// The id of its service.
    service: u16,
    /// The port on which it serves.
    port: u16,
    /// How many bytes the name has. 0: the id stands for nobody.
    length: u16,
    reserved: u16,
    /// The name, padded with zeros.
    name: [u8; NAME_LENGTH + 1],
}

impl TargetName {
    /// What an id says that stands for nobody, and all of a new table says.
    pub const NOBODY: Self = Self {
        address: Address::v6([0; 16]),
        service: 0,
        port: 0,
        length: 0,
        reserved: 0,
        name: [0; NAME_LENGTH + 1],
    };

    /// The backend `name` of the service with the id `service`. `None` if the name is empty or longer than
    /// [`NAME_LENGTH`].
    pub fn new(service: u16, name: &str, address: IpAddr, port: u16) -> Option<Self> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > NAME_LENGTH {
            return None;
        }
        let mut padded = [0; NAME_LENGTH + 1];
        padded.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self {
            address: address.into(),
            service,
            port,
            length: u16::try_from(bytes.len()).ok()?,
            reserved: 0,
            name: padded,
        })
    }

    /// The backend's name; `None` if the id stands for nobody, or what was written there is no name.
    pub fn name(&self) -> Option<&str> {
        if self.length == 0 {
            return None;
        }
        core::str::from_utf8(self.name.get(..usize::from(self.length))?).ok()
    }

    /// The id of the service.
    pub const fn service(&self) -> u16 {
        self.service
    }

    /// The backend's own address.
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// The port on which it serves.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    #[test]
    fn there_is_no_hidden_padding() {
        assert_eq!(size_of::<TargetName>(), 16 + 4 * 2 + 64);
    }

    #[test]
    fn nobody_has_no_name() {
        assert_eq!(TargetName::NOBODY.name(), None);
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(TargetName::new(1, "", address, 1), None);
        assert_eq!(TargetName::new(1, &"x".repeat(NAME_LENGTH + 1), address, 1), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(service: u16, name in "[a-zA-Z0-9._-]{1,63}", port: u16, v4: u32, v6: u128) {
            for address in [IpAddr::V4(Ipv4Addr::from_bits(v4)), IpAddr::V6(Ipv6Addr::from_bits(v6))] {
                let written = TargetName::new(service, &name, address, port).expect("a name of allowed length");
                prop_assert_eq!(written.name(), Some(name.as_str()));
                prop_assert_eq!((written.service(), written.port()), (service, port));
                prop_assert_eq!(written.address().to_canonical(), address.to_canonical());
            }
        }
    }
}
