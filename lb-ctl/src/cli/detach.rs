//! `lb-ctl detach`.

use std::path::Path;

use anyhow::bail;

use super::{exit::UsageError, runtime};
use crate::{
    adapters::{api::client, datapath::pinned_nodes},
    daemon,
};

pub(super) fn detach(socket: &Path, node: Option<&str>) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        if client::is_running(socket).await {
            bail!(
                "a daemon answers at {} and would lose its program: stop it first, then detach",
                socket.display()
            );
        }
        let node = match node {
            Some(node) => node.to_owned(),
            None => only_node()?,
        };
        let daemon::Detached {
            interfaces,
            maps,
            addresses,
        } = daemon::detach(&node).await?;
        if interfaces.is_empty() && maps == 0 && addresses.is_empty() {
            println!("nothing of {node:?} is left on this host");
        }
        for interface in interfaces {
            println!("detached the XDP program from {interface}");
        }
        if maps > 0 {
            println!("removed {maps} pinned maps of {node:?}");
        }
        for address in addresses {
            println!("removed the VIP {address}");
        }
        Ok(())
    })
}

/// The node whose pins are here. Without any, addresses may still have to go, for which the name does not matter.
fn only_node() -> anyhow::Result<String> {
    let mut nodes = pinned_nodes()?;
    match (nodes.pop(), nodes.is_empty()) {
        (None, _) => Ok(String::from("lb-ctl")),
        (Some(node), true) => Ok(node),
        (Some(last), false) => {
            nodes.push(last);
            Err(UsageError(format!(
                "several balancers have pins on this host ({}): name one with --node",
                nodes.join(", ")
            ))
            .into())
        }
    }
}
