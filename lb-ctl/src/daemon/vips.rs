//! The VIPs on our interface.
//!
//! A VIP that the operator has put somewhere already is left alone; the others are added, so that the kernel answers
//! ARP and neighbour discovery for them. Only addresses with our mark are ever removed, and only from interfaces of this
//! node: another node on the same host has another interface.

use std::{collections::BTreeSet, net::IpAddr};

use crate::adapters::netlink::{Address, Netlink, NetlinkError};

/// Adds the VIPs that are nowhere on this host to `interface`. Each goes into `added` at once, so that a failure later on
/// leaves a record of what to take back.
pub(super) async fn add_missing(
    netlink: &Netlink,
    interface: u32,
    vips: &BTreeSet<IpAddr>,
    added: &mut Vec<IpAddr>,
) -> Result<(), NetlinkError> {
    let present = netlink.addresses().await?;
    for &vip in vips {
        let counts =
            |address: &Address| address.address == vip && (!address.ours || address.interface == interface);
        if !present.iter().any(counts) {
            netlink.add_vip(interface, vip).await?;
            added.push(vip);
        }
    }
    Ok(())
}

/// Removes addresses with our mark from these interfaces, as far as `unwanted` says so. Returns them.
pub(super) async fn remove(
    netlink: &Netlink,
    interfaces: &[u32],
    unwanted: impl Fn(IpAddr) -> bool,
) -> Result<Vec<IpAddr>, NetlinkError> {
    let mut removed = Vec::new();
    for address in netlink.addresses().await? {
        if address.ours && interfaces.contains(&address.interface) && unwanted(address.address) {
            netlink.remove_address(&address).await?;
            removed.push(address.address);
        }
    }
    Ok(removed)
}

/// Takes addresses with our mark off these interfaces, for a moment. What fails on the way leaves them as they were.
pub(super) async fn hide(netlink: &Netlink, interfaces: &[u32]) -> Result<Vec<Address>, NetlinkError> {
    let mut hidden = Vec::new();
    for address in netlink.addresses().await? {
        if address.ours && interfaces.contains(&address.interface) {
            if let Err(error) = netlink.remove_address(&address).await {
                show(netlink, &hidden).await?;
                return Err(error);
            }
            hidden.push(address);
        }
    }
    Ok(hidden)
}

/// Puts addresses back that were [hidden](hide).
pub(super) async fn show(netlink: &Netlink, hidden: &[Address]) -> Result<(), NetlinkError> {
    for address in hidden {
        netlink.add_vip(address.interface, address.address).await?;
    }
    Ok(())
}

/// The indices of those of these interfaces that exist.
pub(super) async fn indices(netlink: &Netlink, names: &[String]) -> Result<Vec<u32>, NetlinkError> {
    let mut indices = Vec::new();
    for name in names {
        indices.extend(netlink.interface(name).await?.map(|interface| interface.index));
    }
    Ok(indices)
}
