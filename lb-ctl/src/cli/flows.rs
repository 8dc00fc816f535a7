//! `lb-ctl flows`.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};

use super::{output::print, runtime};
use crate::{
    adapters::api::client,
    core::flows::{Flows, Query},
};

pub(super) fn flows(socket: &Path, query: &Query, json: bool) -> anyhow::Result<()> {
    let flows = runtime()?.block_on(client::flows(socket, query))?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&flows)?))
    } else {
        print(&render(&flows))
    }
}

/// The flows for people.
fn render(flows: &Flows) -> String {
    if flows.backends.is_empty() {
        return "no flow is recorded: connections in untracked slots need no record\n".to_owned();
    }
    let mut text = String::new();
    if !flows.flows.is_empty() {
        let rows = flows.flows.iter().map(|flow| {
            [
                flow.client.to_string(),
                flow.service.clone(),
                flow.backend.clone(),
                flow.state.name().to_owned(),
                flow.idle_seconds.to_string(),
                flow.nat_port.as_ref().map_or_else(String::new, u16::to_string),
            ]
        });
        let headings = ["client", "service", "backend", "state", "idle s", "nat port"];
        text.push_str(&table(headings, rows, &[4, 5]));
    }
    if flows.more > 0 {
        text.extend(["and ", &flows.more.to_string(), " more (--limit shows more)\n"]);
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let rows = flows.backends.iter().map(|counts| {
        [
            counts.service.clone(),
            counts.backend.clone(),
            counts.established.to_string(),
            counts.closing.to_string(),
            counts.half_open.to_string(),
            counts.unrecorded.to_string(),
        ]
    });
    let headings = [
        "service",
        "backend",
        "established",
        "closing",
        "half-open",
        "unrecorded",
    ];
    text.push_str(&table(headings, rows, &[2, 3, 4, 5]));
    text
}

/// A table whose columns at `numbers` hold numbers.
fn table<const N: usize>(
    headings: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    numbers: &[usize],
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings);
    table.add_rows(rows);
    for &index in numbers {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}
