//! `lb-ctl vrrp` and `lb-ctl failover`.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};

use super::{output::print, runtime};
use crate::{
    adapters::api::{client, server::HandOverQuery},
    core::{status::VrrpStatus, vrrp::State},
};

pub(super) fn vrrp(socket: &Path, json: bool) -> anyhow::Result<()> {
    let status = runtime()?.block_on(client::status(socket))?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&status.vrrp)?))
    } else {
        print(&render(&status.vrrp))
    }
}

pub(super) fn failover(socket: &Path, instance: Option<String>, force: bool) -> anyhow::Result<()> {
    let query = HandOverQuery { instance, force };
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
        "was",
        "because",
        "priority",
        "interface",
        "vrid",
        "interval",
        "timer",
        "master",
        "addresses",
    ]);
    table.add_rows(instances.iter().map(row));
    for numbers in [5, 7, 8] {
        if let Some(column) = table.column_mut(numbers) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let missing = instances.iter().flat_map(|instance| {
        let lines = instance.missing.iter();
        lines.map(|what| format!("{}: {what}\n", instance.name))
    });
    format!("{table}\n{}", missing.collect::<String>())
}

fn row(instance: &VrrpStatus) -> [String; 12] {
    let VrrpStatus {
        name,
        state,
        state_seconds,
        previous_state,
        cause,
        priority,
        configured_priority,
        addresses,
        interface,
        vrid,
        group,
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
        previous_state.clone().unwrap_or_else(|| "-".to_owned()),
        cause.clone(),
        if priority == configured_priority {
            priority.to_string()
        } else {
            format!("{priority} (of {configured_priority})")
        },
        interface.clone(),
        vrid.to_string(),
        format!("{interval_ms} ms"),
        timer(instance),
        master(instance),
        addresses.join(", "),
    ]
}

/// What it waits for.
fn timer(instance: &VrrpStatus) -> String {
    match instance.due_ms {
        Some(due) if instance.state == State::Master.to_string() => format!("advertises in {due} ms"),
        Some(due) => format!("takes over in {due} of {} ms", instance.master_down_ms),
        None => "-".to_owned(),
    }
}

/// Who is master, and with which priority.
fn master(instance: &VrrpStatus) -> String {
    match (instance.master, instance.master_priority) {
        (Some(master), Some(priority)) => format!("{master} ({priority})"),
        (Some(master), None) => master.to_string(),
        (None, _) => "-".to_owned(),
    }
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
            previous_state: Some("init".into()),
            cause: "started".into(),
            priority: 50,
            configured_priority: 100,
            addresses: vec![[192, 0, 2, 10].into(), [192, 0, 2, 11].into()],
            interface: "eth0".into(),
            vrid: 51,
            virtual_mac: None,
            group: Some("impala".into()),
            master: Some([192, 0, 2, 3].into()),
            master_priority: Some(200),
            interval_ms: 250,
            master_down_ms: 951,
            due_ms: Some(730),
            yields: false,
            transitions: BTreeMap::new(),
            rejected: Vec::new(),
            missing: vec!["/bin/disk /var fails: ended with status 1".into()],
            notifications: BTreeMap::new(),
        };
        let as_master = VrrpStatus {
            state: "master".into(),
            due_ms: Some(7),
            ..instance.clone()
        };
        assert_eq!(timer(&as_master), "advertises in 7 ms");
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
                "init",
                "started",
                "50 (of 100)",
                "eth0",
                "51",
                "250 ms",
                "takes over in 730 of 951 ms",
                "192.0.2.3 (200)",
                "192.0.2.10, 192.0.2.11"
            ]
        );
        assert_eq!(lines[2..], ["impala4: /bin/disk /var fails: ended with status 1"]);
    }
}
