//! The VIPs on our interface.
//!
//! A VIP that the operator has put somewhere already is left alone; the others are added, so that the kernel answers
//! ARP for them.

use std::{collections::BTreeSet, net::IpAddr};

use crate::adapters::netlink::{Netlink, NetlinkError};

/// Adds the VIPs that are missing to `interface`, and removes those that an earlier run added and nobody wants any
/// more. Returns what was added.
pub(super) async fn reconcile(
    netlink: &Netlink,
    interface: u32,
    vips: &BTreeSet<IpAddr>,
) -> Result<Vec<IpAddr>, NetlinkError> {
    let present = netlink.addresses().await?;
    for address in &present {
        if address.ours && (address.interface != interface || !vips.contains(&address.address)) {
            netlink.remove_address(address).await?;
            tracing::info!(vip = %address.address, "removed a VIP that is no longer configured");
        }
    }
    let mut added = Vec::new();
    for &vip in vips {
        let stays = |address: &&crate::adapters::netlink::Address| {
            address.address == vip && (!address.ours || address.interface == interface)
        };
        match present.iter().find(stays) {
            Some(address) if !address.ours => {
                tracing::info!(%vip, "the VIP is on this host already; left as it is");
            }
            Some(_) => {}
            None => {
                netlink.add_vip(interface, vip).await?;
                added.push(vip);
            }
        }
    }
    Ok(added)
}

/// Removes all addresses with our mark. Returns them.
pub async fn remove_all(netlink: &Netlink) -> Result<Vec<IpAddr>, NetlinkError> {
    let mut removed = Vec::new();
    for address in netlink.addresses().await?.iter().filter(|address| address.ours) {
        netlink.remove_address(address).await?;
        removed.push(address.address);
    }
    Ok(removed)
}

/// Removes these addresses again, as far as they carry our mark.
pub(super) async fn remove(netlink: &Netlink, vips: &[IpAddr]) -> Result<(), NetlinkError> {
    for address in netlink.addresses().await? {
        if address.ours && vips.contains(&address.address) {
            netlink.remove_address(&address).await?;
        }
    }
    Ok(())
}
