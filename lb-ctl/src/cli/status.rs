//! `lb-ctl status`.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};

use super::{output::print, runtime};
use crate::{
    adapters::api::client,
    core::status::{
        BackendStatus, CheckStatus, CounterStatus, DecisionsStatus, DiscoveryStatus, LoadStatus, PeerStatus,
        SeedStatus, ServiceStatus, Status,
    },
};

pub(super) fn status(socket: &Path, json: bool) -> anyhow::Result<()> {
    let status = runtime()?.block_on(client::status(socket))?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&status)?))
    } else {
        print(&render(&status))
    }
}

/// The status for people.
fn render(status: &Status) -> String {
    let interfaces: Vec<String> = status
        .datapath
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, interface.mode))
        .collect();
    let mut text = format!(
        "{}  lb-ctl {}  XDP on {}\n",
        status.node,
        status.version,
        interfaces.join(", ")
    );
    if let Some(peer) = &status.peer {
        text.push_str(&render_peer(peer));
    }
    text.push_str(&render_decisions(&status.decisions));
    for service in &status.services {
        text.push_str(&render_service(service));
    }
    let counted: Vec<_> = status
        .datapath
        .counters
        .iter()
        .filter(|counter| counter.packets > 0)
        .collect();
    if !counted.is_empty() {
        text.push_str("\nexceptional packets\n");
        for counter in counted {
            let CounterStatus {
                name,
                meaning,
                packets,
            } = counter;
            text.extend(["  ", &format!("{packets:>10}"), "  ", name, ": ", meaning, "\n"]);
        }
    }
    text
}

/// The other balancer.
fn render_peer(peer: &PeerStatus) -> String {
    let PeerStatus {
        connected,
        lag_ms,
        node,
        version,
        trouble,
        not_taken_over,
    } = peer;
    let mut text = match (node, trouble) {
        (Some(node), _) if *connected => {
            let version = version.as_deref().unwrap_or_default();
            format!("peer: {node}, lb-ctl {version}, {lag_ms} ms behind\n")
        }
        (_, Some(trouble)) => format!("PEER NOT CONNECTED: {trouble}\n"),
        (_, None) => "PEER NOT CONNECTED\n".to_owned(),
    };
    if *not_taken_over > 0 {
        text.extend([
            "NO ROOM FOR ",
            &not_taken_over.to_string(),
            " SLOTS AND FLOWS OF THE PEER'S: raise datapath.max_flows and datapath.max_backends here\n",
        ]);
    }
    text
}

/// What operators have decided and somebody should see to.
fn render_decisions(decisions: &DecisionsStatus) -> String {
    let DecisionsStatus {
        not_kept,
        unusable,
        not_configured,
    } = decisions;
    let mut text = String::new();
    if let Some(reason) = not_kept {
        text.extend([
            "DECISIONS NOT KEPT: a restart would forget what operators have decided: ",
            reason,
            "\n",
        ]);
    }
    if let Some(reason) = unusable {
        text.extend(["DECISIONS LOST: ", reason, "\n"]);
    }
    if !not_configured.is_empty() {
        text.extend([
            "decided, though not configured: ",
            &not_configured.join(", "),
            " (`lb-ctl enable` and `lb-ctl weight NAME config` take that back)\n",
        ]);
    }
    text
}

const HEADINGS: [&str; 12] = [
    "backend",
    "address",
    "weight",
    "health",
    "last check",
    "admin",
    "slots",
    "new flows",
    "tracked",
    "packets",
    "bytes",
    "next hop",
];
/// The columns that hold numbers.
const NUMBERS: [usize; 6] = [2, 6, 7, 8, 9, 10];

fn render_service(service: &ServiceStatus) -> String {
    let ServiceStatus {
        name,
        vip,
        port,
        forward,
        active_tier,
        tracked_slots,
        guard,
        role,
        ..
    } = service;
    let address = std::net::SocketAddr::new(*vip, *port);
    let slots: u32 = service.backends.iter().map(|backend| backend.slots).sum();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(HEADINGS);
    for backend in &service.backends {
        table.add_row(row(backend, slots));
    }
    for index in NUMBERS {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let moving = if *tracked_slots == 0 {
        String::new()
    } else {
        format!("  {tracked_slots} slots tracked")
    };
    let tier = if service
        .backends
        .iter()
        .all(|backend| backend.tier == *active_tier)
    {
        String::new()
    } else {
        format!("  tier {active_tier} serves")
    };
    let role = role.as_ref().map(|role| format!("  {role}")).unwrap_or_default();
    let mut text = format!("\n{name}  {address}  {forward}{role}{tier}{moving}\n");
    if let Some(guard) = guard {
        text.extend([" GUARD AGAINST MASS REMOVAL: ", guard, "\n"]);
    }
    text.extend([&table.to_string(), "\n"]);
    text.extend(service.backends.iter().filter_map(trouble));
    if let Some(discovery) = &service.discovery {
        text.push_str(&render_discovery(discovery, &service.backends));
    }
    text
}

/// Who is discovered, and what the seeds say.
fn render_discovery(discovery: &DiscoveryStatus, backends: &[BackendStatus]) -> String {
    let names = |counts: fn(&BackendStatus) -> bool| {
        let counted = backends
            .iter()
            .filter(|backend| backend.discovered && counts(backend));
        counted
            .map(|backend| backend.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut lines = Vec::new();
    for (what, names) in [
        ("discovered", names(|_| true)),
        ("on no page now", names(|backend| backend.listed_by.is_empty())),
    ] {
        if !names.is_empty() {
            lines.push(format!(" {what}: {names}\n"));
        }
    }
    lines.extend(discovery.seeds.iter().map(seed));
    lines.extend(discovery.refused.iter().map(|refused| {
        let (name, address) = (&refused.name, refused.address);
        format!(" NOT USED: {name}, {address}: {}\n", refused.reason)
    }));
    lines.concat()
}

fn seed(asked: &SeedStatus) -> String {
    let SeedStatus { seed, detail, .. } = asked;
    let ago = |seconds: Option<u64>| {
        seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds} s ago"))
    };
    match asked.ok {
        None => format!(" seed {seed}: {detail}\n"),
        Some(true) => format!(" seed {seed}: {detail}, {}\n", ago(asked.seconds_ago)),
        Some(false) => {
            let last = ago(asked.last_page_seconds_ago);
            format!(
                " seed {seed}: FAILED {}, last page {last}: {detail}\n",
                ago(asked.seconds_ago)
            )
        }
    }
}

/// Why a backend that is checked is not up, in a line.
fn trouble(backend: &BackendStatus) -> Option<String> {
    let seconds = backend.health_seconds.filter(|_| backend.health != "up")?;
    let BackendStatus {
        name,
        health,
        health_cause,
        ..
    } = backend;
    Some(format!(" {name}: {health} for {seconds} s, {health_cause}\n"))
}

/// The last check in a few words; what it found in full is in the answer for programs.
fn last_check(backend: &BackendStatus) -> String {
    match &backend.last_check {
        None => "none".to_owned(),
        Some(CheckStatus {
            ok,
            latency_ms,
            seconds_ago,
            ..
        }) => {
            let word = if *ok { "ok" } else { "failed" };
            format!("{word}, {latency_ms} ms, {seconds_ago} s ago")
        }
    }
}

fn health(backend: &BackendStatus) -> String {
    match backend.slow_start_tenths {
        Some(tenths) => format!("{} ({tenths}/10)", backend.health),
        None => backend.health.clone(),
    }
}

/// The weight, and what makes it count otherwise: an operator's word, the load where it follows that.
fn weight(backend: &BackendStatus) -> String {
    let BackendStatus {
        weight,
        configured_weight,
        ..
    } = backend;
    let mut remarks = Vec::new();
    if weight != configured_weight {
        remarks.push(format!("configured: {configured_weight}"));
    }
    match backend.load {
        None => {}
        Some(LoadStatus {
            load: Some(load),
            weight_percent,
        }) => remarks.push(format!("{weight_percent} %, load {load}")),
        Some(LoadStatus { load: None, .. }) => remarks.push("load unknown".to_owned()),
    }
    if remarks.is_empty() {
        weight.to_string()
    } else {
        format!("{weight} ({})", remarks.join(", "))
    }
}

fn admin(backend: &BackendStatus) -> String {
    let softly = if backend.soft_drain { " softly" } else { "" };
    match backend.deadline_seconds {
        Some(left) => format!("{}{softly} ({left} s left)", backend.admin),
        None => format!("{}{softly}", backend.admin),
    }
}

fn row(backend: &BackendStatus, slots: u32) -> [String; 12] {
    let share = if slots == 0 {
        0.0
    } else {
        f64::from(backend.slots) / f64::from(slots) * 100.0
    };
    [
        backend.name.clone(),
        backend.address.to_string(),
        weight(backend),
        health(backend),
        last_check(backend),
        admin(backend),
        format!("{} ({share:.1} %)", backend.slots),
        backend.new_flows.to_string(),
        backend.tracked_flows.to_string(),
        backend.packets.to_string(),
        backend.bytes.to_string(),
        backend
            .next_hop
            .clone()
            .unwrap_or_else(|| "unresolved".to_owned()),
    ]
}
