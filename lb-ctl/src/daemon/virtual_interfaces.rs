//! The virtual routers' own interfaces: how one comes to be, and how it goes without a trace.
//!
//! By itself the kernel answers ARP for all addresses of the host on all interfaces, and asks in their name, unless the parameters `arp_ignore`
//! and `arp_announce` say otherwise. A parent that speaks for a virtual router's addresses, with its own MAC address, would undo what the virtual
//! one is for. So it is silenced before its first virtual interface is up, and gets its voice back before the last one is gone. The
//! virtual interfaces remember that, since this process may be killed in between, and so does this process, since somebody may delete them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use crate::{
    adapters::netlink::{Address, Netlink, NetlinkError},
    core::{
        interface::format_mac,
        vrrp::{Arp, Existing, Silenced, VirtualInterface, silenced_for_others, unwanted},
    },
};

/// A virtual interface that an instance needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Needed {
    pub(super) of: VirtualInterface,
    /// The instance's name.
    pub(super) instance: String,
    /// What the parent says of addresses that are not its own.
    pub(super) arp: Option<Arp>,
}

/// Sees to it that a virtual interface is there and as it has to be. Returns its index. `existing` are all that there are, `silenced` is what this
/// process has changed about parents.
pub(super) async fn raise(
    netlink: &Netlink,
    needed: &Needed,
    existing: &mut Vec<Existing>,
    silenced: &mut BTreeMap<u32, Silenced>,
) -> Result<u32, NetlinkError> {
    let Needed { of, instance, arp } = needed;
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
    if let Some(arp) = arp.filter(|_| of.is_ipv4) {
        let change = Silenced::needed(arp);
        let before = existing[place].silenced;
        let own = silenced.entry(of.parent).or_default();
        // Who has deleted the interface has not given the parent its voice back.
        *own = before
            .and(silenced_for_others(existing, *of))
            .and(*own)
            .and(change);
        if *own != before {
            netlink.mark_as_silencing(existing[place].index, *own).await?;
            existing[place].silenced = *own;
        }
        if change != Silenced::default() {
            netlink.set_arp(of.parent, arp.silenced()).await?;
        }
    }
    let it = &mut existing[place];
    if !it.is_ready {
        let description = format!("lb-ctl: VRRP instance {instance}");
        netlink.prepare_virtual_interface(it.index, &description).await?;
        if let Err(error) = prepare_ipv6(*of) {
            tracing::warn!(
                instance,
                interface = of.name(),
                "router advertisements may count on the virtual interface too, and give the host routes through it, or it may have no \
                 IPv6: net.ipv6.conf could not be set: {error}"
            );
        }
        netlink.set_up(it.index).await?;
        it.is_ready = true;
    }
    Ok(it.index)
}

/// Netlink can set the parameters of IPv4 only.
fn prepare_ipv6(of: VirtualInterface) -> io::Result<()> {
    let set = |parameter: &str| match fs::write(
        format!("/proc/sys/net/ipv6/conf/{}/{parameter}", of.name()),
        "0",
    ) {
        // There is no IPv6 on this host.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let ignores = set("accept_ra");
    // New interfaces may have none, though the parent has.
    let has_ipv6 = if of.is_ipv4 { Ok(()) } else { set("disable_ipv6") };
    ignores.and(has_ipv6)
}

/// Removes a virtual interface with its addresses, of which `addresses` are all of the host. The last one undoes what has been changed about
/// its parent.
///
/// The interface goes as a whole. Taken off one by one, addresses of IPv6 would have the kernel say goodbye to their multicast groups, from
/// the virtual MAC address: switches would send what is for the new master to us.
pub(super) async fn lower(
    netlink: &Netlink,
    (it, silenced): (Existing, Silenced),
    addresses: &[Address],
) -> Result<(), NetlinkError> {
    if silenced != Silenced::default() {
        // The parent must not answer for these once it has its voice back. They are of IPv4.
        for address in addresses.iter().filter(|address| address.interface == it.index) {
            netlink.remove_address(address).await?;
        }
        unsilence(netlink, it.of.parent, silenced).await?;
    }
    netlink.delete_interface(it.index).await?;
    tracing::info!(interface = it.of.name(), "removed the virtual interface");
    Ok(())
}

/// Undoes what has been changed about a parent, if it is there still.
pub(super) async fn unsilence(
    netlink: &Netlink,
    parent: u32,
    silenced: Silenced,
) -> Result<(), NetlinkError> {
    match netlink.arp(parent).await? {
        Some(now) if silenced != Silenced::default() => netlink.set_arp(parent, silenced.undone(now)).await,
        Some(_) | None => Ok(()),
    }
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
