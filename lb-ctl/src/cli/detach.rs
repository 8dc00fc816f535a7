//! `lb-ctl detach`.

use super::{exit::UsageError, output::print, runtime};
use crate::{
    adapters::datapath::pinned_nodes,
    core::config::{bad_name, is_name},
    daemon,
};

pub(super) fn detach(node: Option<&str>) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let node = match node {
            Some(node) if is_name(node) => node.to_owned(),
            Some(node) => return Err(UsageError(format!("--node: {}", bad_name(node))).into()),
            None => match only_node()? {
                Some(node) => node,
                None => return print("nothing of lb-ctl is left on this host\n"),
            },
        };
        let daemon::Detached {
            interfaces,
            maps,
            addresses,
        } = daemon::detach(&node).await?;
        let mut lines = Vec::new();
        lines.extend(
            interfaces
                .iter()
                .map(|interface| format!("detached the XDP program from {interface}\n")),
        );
        if maps > 0 {
            lines.push(format!("removed {maps} pinned maps of node {node}\n"));
        }
        lines.extend(
            addresses
                .iter()
                .map(|address| format!("removed the VIP {address}\n")),
        );
        if lines.is_empty() {
            lines.push(format!("nothing of node {node} is left on this host\n"));
        }
        print(&lines.concat())
    })
}

/// The node whose pins are here, if there is one.
fn only_node() -> anyhow::Result<Option<String>> {
    let mut nodes = pinned_nodes()?;
    if nodes.len() > 1 {
        let nodes = nodes.join(", ");
        return Err(UsageError(format!(
            "several balancers have pins on this host ({nodes}): name one with --node"
        ))
        .into());
    }
    Ok(nodes.pop())
}
