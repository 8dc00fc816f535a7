//! What turns a lab into a balanced cluster: `lb-ctl` on a balancer, stand-in coordinators on the backends.

mod balancer;
mod coordinators;
mod decap;
mod mixture;
mod pair;

pub use balancer::{Balancer, Configuration, Output};
pub use coordinators::{Coordinator, start_coordinators};
pub use decap::Decap;
pub use mixture::{MIXTURES, Mixture};
pub use pair::{PEER_PORT, Pair, write_key};

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;

use crate::hosts::lab::{Host, Lab};

/// Longer than anything takes on a busy machine, short enough to wait for in vain.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The port of HiveServer2.
pub const HS2_PORT: u16 = 21050;

/// The port of a coordinator's web pages.
pub const WEB_PORT: u16 = 25000;

/// Whether an address is on a balancer's interface.
pub fn holds(host: &Host, vip: IpAddr) -> Result<bool> {
    let addresses = host.run(&["ip", "-o", "addr", "show", "dev", "eth0"])?;
    Ok(addresses.contains(&format!(" {vip}/")))
}

/// Takes the VIPs off all backends, which then know nothing of a balancer: as `nat` finds them.
pub fn take_vips_off_backends(lab: &Lab) -> Result<()> {
    for backend in lab.backends() {
        backend.run(&["ip", "address", "flush", "dev", "lo", "scope", "global"])?;
    }
    Ok(())
}
