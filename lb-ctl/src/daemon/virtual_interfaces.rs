//! The virtual routers' own interfaces: how one comes to be, and how it goes without a trace.
//!
//! The kernel answers ARP for all addresses of the host on all interfaces, unless the parameter `arp_ignore` says otherwise. A parent that
//! answers for a virtual router's addresses, with its own MAC address, would undo what the virtual one is for. So it is silenced before
//! its first virtual interface is up, and gets its voice back before the last one is gone. The virtual interfaces remember that, and not
//! this process, which may be killed in between.

use std::{collections::BTreeSet, fs, io};

use crate::{
    adapters::netlink::{Address, Netlink, NetlinkError},
    core::{
        interface::format_mac,
        vrrp::{Existing, VirtualInterface, is_silenced, unwanted},
    },
};

/// A virtual interface that an instance needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Needed {
    pub(super) of: VirtualInterface,
    /// The instance's name.
    pub(super) instance: String,
    /// The parent's `arp_ignore`.
    pub(super) arp_ignore: Option<u32>,
}

/// Sees to it that a virtual interface is there and as it has to be. Returns its index. `existing` are all that there are.
pub(super) async fn raise(
    netlink: &Netlink,
    needed: &Needed,
    existing: &mut Vec<Existing>,
) -> Result<u32, NetlinkError> {
    let Needed {
        of,
        instance,
        arp_ignore,
    } = needed;
    let place = if let Some(place) = existing.iter().position(|it| it.of == *of) {
        place
    } else {
        let added = netlink.add_virtual_interface(*of).await?;
        tracing::info!(
            instance,
            interface = of.name(),
            mac = format_mac(of.mac()),
            "added the virtual interface"
        );
        existing.push(added);
        existing.len() - 1
    };
    let must_be_silenced = of.is_ipv4 && *arp_ignore == Some(0);
    if (must_be_silenced || is_silenced(existing, *of)) && !existing[place].silences {
        netlink.mark_as_silencing(existing[place].index).await?;
        existing[place].silences = true;
    }
    if must_be_silenced {
        netlink.set_arp_ignore(of.parent, 1).await?;
    }
    let it = &mut existing[place];
    if !it.up {
        let description = format!("lb-ctl: VRRP instance {instance}");
        netlink.prepare_virtual_interface(it.index, &description).await?;
        if let Err(error) = ignore_router_advertisements(&of.name()) {
            tracing::warn!(
                instance,
                "router advertisements count on {} too, which may give the host routes through it: accept_ra could not be set: {error}",
                of.name()
            );
        }
        netlink.set_up(it.index).await?;
        it.up = true;
    }
    Ok(it.index)
}

/// Netlink can set the parameters of IPv4 only.
fn ignore_router_advertisements(interface: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra"), "0") {
        // There is no IPv6 on it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a virtual interface with its addresses, of which `addresses` are all of the host. The last one gives its parent its `voice` back.
///
/// The interface goes as a whole. Taken off one by one, addresses of IPv6 would have the kernel say goodbye to their multicast groups, from
/// the virtual MAC address: switches would send what is for the new master to us.
pub(super) async fn lower(
    netlink: &Netlink,
    (it, voice): (Existing, bool),
    addresses: &[Address],
) -> Result<(), NetlinkError> {
    if voice {
        // The parent must not answer for these once it has its voice back. They are of IPv4.
        for address in addresses.iter().filter(|address| address.interface == it.index) {
            netlink.remove_address(address).await?;
        }
        netlink.set_arp_ignore(it.of.parent, 0).await?;
    }
    netlink.delete_interface(it.index).await?;
    tracing::info!(interface = it.of.name(), "removed the virtual interface");
    Ok(())
}

/// Removes those over these parents.
pub(super) async fn remove_all(netlink: &Netlink, parents: &[u32]) -> Result<(), NetlinkError> {
    let existing = netlink.virtual_interfaces().await?;
    let parents: BTreeSet<u32> = parents.iter().copied().collect();
    let going = unwanted(&existing, &BTreeSet::new(), &parents);
    if going.is_empty() {
        return Ok(());
    }
    let addresses = netlink.addresses().await?;
    for one in going {
        lower(netlink, one, &addresses).await?;
    }
    Ok(())
}
