//! `lb-ctl vrrp` and `lb-ctl failover`.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};

use super::{output::print, runtime};
use crate::{
    adapters::api::{client, server::HandOverQuery},
    core::status::VrrpStatus,
};

pub(super) fn vrrp(socket: &Path, json: bool) -> anyhow::Result<()> {
    let status = runtime()?.block_on(client::status(socket))?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&status.vrrp)?))
    } else {
        print(&render(&status.vrrp))
    }
}

pub(super) fn failover(socket: &Path, instance: Option<String>) -> anyhow::Result<()> {
    let query = HandOverQuery { instance };
    let handed_over = runtime()?.block_on(client::hand_over(socket, &query))?;
    let lines: Vec<String> = handed_over
        .iter()
        .map(|name| format!("{name}: handed over\n"))
        .collect();
    print(&lines.concat())
}

/// The instances for people.
fn render(instances: &[VrrpStatus]) -> String {
    if instances.is_empty() {
        return "no VRRP instance is configured: all VIPs are this balancer's alone\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "instance",
        "state",
        "for",
        "because",
        "priority",
        "interface",
        "vrid",
        "interval",
        "master",
        "addresses",
    ]);
    table.add_rows(instances.iter().map(row));
    for numbers in [4, 6, 7] {
        if let Some(column) = table.column_mut(numbers) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

fn row(instance: &VrrpStatus) -> [String; 10] {
    let VrrpStatus {
        name,
        state,
        state_seconds,
        cause,
        priority,
        configured_priority,
        addresses,
        interface,
        vrid,
        group,
        master,
        interval_ms,
        ..
    } = instance;
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    [
        match group {
            Some(group) => format!("{name} ({group})"),
            None => name.clone(),
        },
        state.clone(),
        format!("{state_seconds} s"),
        cause.clone(),
        if priority == configured_priority {
            priority.to_string()
        } else {
            format!("{priority} (of {configured_priority})")
        },
        interface.clone(),
        vrid.to_string(),
        format!("{interval_ms} ms"),
        master.map_or_else(|| "-".to_owned(), |master| master.to_string()),
        addresses.join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_instance_is_a_line() {
        assert!(render(&[]).starts_with("no VRRP instance is configured"));
        let instance = VrrpStatus {
            name: "impala4".into(),
            state: "backup".into(),
            state_seconds: 12,
            cause: "started".into(),
            priority: 50,
            configured_priority: 100,
            addresses: vec![[192, 0, 2, 10].into(), [192, 0, 2, 11].into()],
            interface: "eth0".into(),
            vrid: 51,
            group: Some("impala".into()),
            master: Some([192, 0, 2, 3].into()),
            interval_ms: 250,
            yields: false,
            transitions: BTreeMap::new(),
            rejected: Vec::new(),
            missing: Vec::new(),
            notifications: BTreeMap::new(),
        };
        let text = render(&[instance]);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let words: Vec<&str> = lines[1]
            .split("  ")
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect();
        assert_eq!(
            words,
            [
                "impala4 (impala)",
                "backup",
                "12 s",
                "started",
                "50 (of 100)",
                "eth0",
                "51",
                "250 ms",
                "192.0.2.3",
                "192.0.2.10, 192.0.2.11"
            ]
        );
    }
}
