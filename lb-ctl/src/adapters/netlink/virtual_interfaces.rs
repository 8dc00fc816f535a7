//! The interfaces that virtual routers have of their own: macvlans with the virtual router's MAC address.
//!
//! Each is in an interface group that is our mark, as the protocol attribute is on addresses, so that it can be told from
//! anybody else's whatever happens to the daemon. The mark also says what has been changed about the parent so that it speaks ARP for its own
//! addresses only, which nobody else would know after a crash.

use futures::TryStreamExt;
use netlink_packet_core::{DefaultNla, NLA_F_NESTED};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, InfoKind, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use rtnetlink::{LinkMacVlan, LinkMessageBuilder, LinkUnspec};

use super::{Netlink, NetlinkError, error::errno};
use crate::core::vrrp::{Arp, Existing, Silenced, VirtualInterface};

/// The first of the groups of our virtual interfaces: "lb" in ASCII. Which of them says what has been changed about the parent.
const MARK: u32 = 0x6c62;

impl Netlink {
    /// All virtual interfaces of ours.
    pub async fn virtual_interfaces(&self) -> Result<Vec<Existing>, NetlinkError> {
        let mut request = self.handle.link().get();
        // The kernel passes over what is no macvlan, once it knows what that is, and leaves out what costs most.
        request.message_mut().attributes.extend([
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::MacVlan)]),
            LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
        ]);
        let messages: Vec<LinkMessage> = request
            .execute()
            .try_collect()
            .await
            .map_err(NetlinkError::request("listing virtual interfaces"))?;
        Ok(messages.iter().filter_map(ours).collect())
    }

    /// Adds one, which is down. Fails if there is another interface of its name.
    pub async fn add_virtual_interface(&self, of: VirtualInterface) -> Result<Existing, NetlinkError> {
        let name = of.name();
        // As a bridge: in private mode, frames that another master of the same virtual router sends would be taken for our own
        // and not be handed to the parent, where VRRP listens.
        let message = LinkMessageBuilder::<LinkMacVlan>::new(&name)
            .link(of.parent)
            .mode(MacVlanMode::Bridge)
            .address(of.mac().to_vec())
            .append_extra_attribute(LinkAttribute::Group(MARK))
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(NetlinkError::request(format!(
                "adding the virtual interface {name}"
            )))?;
        let found = self.virtual_interfaces().await?;
        if let Some(added) = found.into_iter().find(|it| it.of == of) {
            return Ok(added);
        }
        // Over a macvlan the kernel puts it over what that is over.
        if let Some(link) = self.link(&name).await? {
            self.delete_interface(link.interface.index).await?;
        }
        Err(NetlinkError::NoParent { name })
    }

    /// Remembers, at a virtual interface, what has been changed about its parent.
    pub async fn mark_as_silencing(&self, index: u32, silenced: Silenced) -> Result<(), NetlinkError> {
        let group = LinkAttribute::Group(MARK + silenced.number());
        let message = LinkUnspec::new_with_index(index).append_extra_attribute(group);
        self.set_link(message, "marking a virtual interface").await
    }

    /// What an interface says by itself of addresses that are not its own; `None` if it is gone or IPv4 is not on it.
    pub async fn arp(&self, interface: u32) -> Result<Option<Arp>, NetlinkError> {
        let request = self.handle.link().get().match_index(interface);
        match request.execute().try_next().await {
            Ok(message) => Ok(message.as_ref().and_then(arp)),
            Err(error) if errno(&error) == Some(ENODEV) => Ok(None),
            Err(error) => Err(NetlinkError::request("looking up an interface")(error)),
        }
    }

    /// Says what an interface is to say of such addresses.
    pub async fn set_arp(&self, interface: u32, arp: Arp) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(interface).append_extra_attribute(parameters(&[
            (IPV4_DEVCONF_ARP_IGNORE, arp.ignore),
            (IPV4_DEVCONF_ARP_ANNOUNCE, arp.announce),
        ]));
        self.set_link(message, "setting arp_ignore and arp_announce")
            .await
    }

    /// Sets what has to be right about a virtual interface before it is up. People see the description.
    pub async fn prepare_virtual_interface(&self, index: u32, description: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::IfAlias(description.to_owned()))
            .append_extra_attribute(parameters(&[
                // It must not answer for the parent's addresses.
                (IPV4_DEVCONF_ARP_IGNORE, 1),
                // Loose: the way back to the senders of what arrives here leads through the parent.
                (IPV4_DEVCONF_RP_FILTER, 2),
                // For the same reason.
                (IPV4_DEVCONF_ARPFILTER, 0),
            ]));
        self.set_link(message, "preparing a virtual interface").await?;
        // No address but the virtual router's.
        let no_address = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let message =
            LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![
                AfSpecUnspec::Inet6(vec![no_address]),
            ]));
        match self.handle.link().set(message.build()).execute().await {
            // There is no IPv6 on it.
            Err(error) if errno(&error) == Some(EAFNOSUPPORT) => Ok(()),
            other => other.map_err(NetlinkError::request("preparing a virtual interface")),
        }
    }

    /// Sets an interface up.
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).up();
        self.set_link(message, "setting an interface up").await
    }

    /// Deletes an interface, with the addresses on it. It may have gone already.
    pub async fn delete_interface(&self, index: u32) -> Result<(), NetlinkError> {
        match self.handle.link().del(index).execute().await {
            Err(error) if errno(&error) == Some(ENODEV) => Ok(()),
            other => other.map_err(NetlinkError::request("deleting a virtual interface")),
        }
    }

    async fn set_link(
        &self,
        message: LinkMessageBuilder<LinkUnspec>,
        what: &str,
    ) -> Result<(), NetlinkError> {
        let request = self.handle.link().set(message.build());
        request.execute().await.map_err(NetlinkError::request(what))
    }
}

const ENODEV: i32 = 19;
const EAFNOSUPPORT: i32 = 97;

/// Of the kernel's `linux/if_link.h` and `linux/ip.h`.
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_RP_FILTER: u16 = 8;
const IPV4_DEVCONF_ARPFILTER: u16 = 13;
const IPV4_DEVCONF_ARP_ANNOUNCE: u16 = 18;
const IPV4_DEVCONF_ARP_IGNORE: u16 = 19;

/// The request to set parameters of `net.ipv4.conf`: an attribute for each, unlike what the kernel says of them, which is an array.
fn parameters(parameters: &[(u16, u32)]) -> LinkAttribute {
    let attribute = |&(kind, value): &(u16, u32)| {
        let [length, kind] = [8_u16, kind].map(u16::to_ne_bytes);
        [&length[..], &kind, &value.to_ne_bytes()].concat()
    };
    let all: Vec<u8> = parameters.iter().flat_map(attribute).collect();
    let configuration = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, all));
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![configuration])])
}

/// What an interface says by itself of addresses that are not its own, as the kernel describes it; `None` if IPv4 is not on it.
pub(super) fn arp(message: &LinkMessage) -> Option<Arp> {
    let parameters = ipv4_parameters(message)?;
    Some(Arp {
        ignore: parameters.arp_ignore.try_into().ok()?,
        announce: parameters.arp_announce.try_into().ok()?,
    })
}

/// The parameters of `net.ipv4.conf` of an interface.
fn ipv4_parameters(message: &LinkMessage) -> Option<&InetDevConf> {
    let families = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::AfSpecUnspec(families) => Some(families),
        _ => None,
    })?;
    let ipv4 = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet(ipv4) => Some(ipv4),
        _ => None,
    })?;
    ipv4.iter().find_map(|it| match it {
        AfSpecInet::DevConf(parameters) => Some(parameters),
        _ => None,
    })
}

/// Whether nobody has undone what was [prepared](Netlink::prepare_virtual_interface): rules for new interfaces may, a moment later.
fn is_prepared(message: &LinkMessage) -> bool {
    ipv4_parameters(message).is_none_or(|parameters| {
        parameters.arp_ignore != 0 && parameters.rp_filter != 1 && parameters.arpfilter == 0
    })
}

/// Takes in the kernel's description of an interface, if it is a virtual one of ours.
fn ours(message: &LinkMessage) -> Option<Existing> {
    let (mut parent, mut mac, mut group, mut is_macvlan) = (None, None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Group(it) => group = Some(*it),
            LinkAttribute::LinkInfo(infos) => {
                is_macvlan = infos.contains(&LinkInfo::Kind(InfoKind::MacVlan));
            }
            // The parent is in another network namespace, where its index is another one's here.
            LinkAttribute::LinkNetNsId(_) => return None,
            _ => {}
        }
    }
    let mark = group.filter(|_| is_macvlan)?.checked_sub(MARK)?;
    Some(Existing {
        of: VirtualInterface::with_mac(parent?, mac?)?,
        index: message.header.index,
        is_ready: message.header.flags.contains(LinkFlags::Up) && is_prepared(message),
        silenced: Silenced::of_number(mark)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0, 0, 0x5e, 0, 2, 9];

    fn message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = attributes;
        message
    }

    #[test]
    fn only_macvlans_with_our_mark_and_a_virtual_routers_mac_address_are_ours() {
        let attributes = |group, mac: [u8; 6], kind| {
            vec![
                LinkAttribute::Link(3),
                LinkAttribute::Group(group),
                LinkAttribute::Address(mac.to_vec()),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
            ]
        };
        let found = ours(&message(attributes(MARK + 1, MAC, InfoKind::MacVlan))).unwrap();
        assert_eq!((found.index, found.of.parent, found.of.vrid.get()), (7, 3, 9));
        assert!(found.silenced.ignore && !found.of.is_ipv4 && !found.is_ready);
        let elsewhere = [
            attributes(MARK, MAC, InfoKind::MacVlan),
            vec![LinkAttribute::LinkNetNsId(0)],
        ];
        for others in [
            attributes(0, MAC, InfoKind::MacVlan),
            attributes(MARK + 6, MAC, InfoKind::MacVlan),
            attributes(MARK, [2; 6], InfoKind::MacVlan),
            attributes(MARK, MAC, InfoKind::Vlan),
            elsewhere.concat(),
        ] {
            assert_eq!(ours(&message(others.clone())), None, "{others:?}");
        }
    }
}
