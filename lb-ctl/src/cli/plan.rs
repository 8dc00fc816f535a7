//! `lb-ctl plan`.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};

use super::{
    output::{percent, print},
    runtime,
};
use crate::{
    adapters::{
        api::{client, server::PlanQuery},
        config_file,
    },
    core::{
        changes::{Changes, Fate, ServiceChanges},
        config::NeedsRestart,
        placement::FlowsTracked,
        vrrp_changes::{VrrpChanges, VrrpFate},
    },
};

pub(super) fn plan(socket: &Path, path: &Path, json: bool) -> anyhow::Result<()> {
    let query = PlanQuery {
        file_name: path.display().to_string(),
        text: config_file::text(path)?,
    };
    // A file that is wrong is wrong without a daemon too.
    config_file::parse(&query.file_name, &query.text)?;
    let changes = runtime()?.block_on(client::plan(socket, &query))?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&changes)?))
    } else {
        print(&render(&changes))
    }
}

const HEADINGS: [&str; 6] = [
    "service",
    "what changes",
    "slots that move at once",
    "once all are up",
    "become tracked",
    "connections in these",
];

/// The plan for people.
fn render(changes: &Changes) -> String {
    let mut text = String::new();
    if changes.needs_restart.is_empty() {
        text.push_str("a reload would do this; nothing has been changed\n");
    } else {
        text.push_str("A RELOAD WOULD BE REFUSED: these keys need more than that\n");
        for change in &changes.needs_restart {
            let NeedsRestart {
                key,
                running,
                configured,
                effect,
            } = change;
            text.extend([
                "  ", key, ", ", running, " to ", configured, ": needs ", effect, "\n",
            ]);
        }
        text.push_str("Without them it would do this; nothing has been changed\n");
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(HEADINGS);
    for service in changes.services.iter().filter(|service| service.is_changed()) {
        table.add_row(row(service));
    }
    for index in 2..HEADINGS.len() {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if table.row_count() == 0 {
        text.push_str("\nthe services and backends stay as they are\n");
    } else {
        text.extend(["\n", &table.to_string(), "\n"]);
    }
    let vips = |vips: &[std::net::IpAddr]| vips.iter().map(ToString::to_string).collect::<Vec<_>>();
    let lists = [
        ("VIPs added", vips(&changes.vips_added)),
        (
            "VIPs taken off, if lb-ctl has added them",
            vips(&changes.vips_removed),
        ),
        ("other keys", changes.datapath_changed.clone()),
    ];
    for (what, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
        text.extend([*what, ": ", &names.join(", "), "\n"]);
    }
    for instance in &changes.vrrp {
        text.extend(["VRRP: ", &what_becomes_of(instance), "\n"]);
    }
    let Changes {
        slots, slots_moved, ..
    } = changes;
    let share = percent(*slots_moved, *slots);
    text + &format!("slots moved: {slots_moved} of {slots} ({share})\n")
}

fn row(service: &ServiceChanges) -> [String; 6] {
    let share = |slots: u64| match service.slots {
        0 => String::new(),
        all => format!("{slots} of {all} ({})", percent(slots, all)),
    };
    let stays = service.fate == Fate::Stays;
    [
        service.name.clone(),
        what_changes(service),
        share(service.slots_moved),
        share(service.slots_moved_once_up),
        if stays {
            service.slots_tracked.to_string()
        } else {
            String::new()
        },
        if stays {
            flows(service.flows_tracked)
        } else {
            String::new()
        },
    ]
}

/// One change in a line each.
fn what_changes(service: &ServiceChanges) -> String {
    let mut lines = Vec::new();
    match service.fate {
        Fate::Added => lines.push("is added".to_owned()),
        Fate::Removed => lines.push("is removed, and its connections with it".to_owned()),
        Fate::Stays => {
            lines.extend(service.backends_added.iter().map(|name| format!("+ {name}")));
            let removed = service.backends_removed.iter();
            lines.extend(removed.map(|name| format!("- {name} (drained first)")));
        }
    }
    for change in &service.backends_changed {
        lines.push(format!(
            "{}: {} {} to {}",
            change.name, change.key, change.before, change.after
        ));
    }
    if !service.keys_changed.is_empty() {
        lines.push(format!("keys: {}", service.keys_changed.join(", ")));
    }
    lines.join("\n")
}

/// An instance, and what becomes of it.
fn what_becomes_of(instance: &VrrpChanges) -> String {
    let keys = instance.keys_changed.join(", ");
    let fate = match instance.fate {
        VrrpFate::Added => "is added",
        VrrpFate::Removed => "is removed, and hands over if it is master",
        VrrpFate::Stays => "keeps its state",
        VrrpFate::Restarted => "begins anew, and hands over first if it is master",
    };
    let keys = if keys.is_empty() {
        keys
    } else {
        format!("; keys: {keys}")
    };
    format!("{} {fate}{keys}", instance.name)
}

fn flows(flows: Option<FlowsTracked>) -> String {
    match flows {
        None => "not known".to_owned(),
        Some(FlowsTracked { count, known: true }) => count.to_string(),
        Some(FlowsTracked { count, known: false }) => format!("about {count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::changes::BackendChange;

    fn service(fate: Fate) -> ServiceChanges {
        ServiceChanges {
            name: "impala".into(),
            vip: [192, 0, 2, 10].into(),
            port: 21050,
            fate,
            keys_changed: Vec::new(),
            backends_added: Vec::new(),
            backends_removed: Vec::new(),
            backends_changed: Vec::new(),
            slots: 0,
            slots_moved: 0,
            slots_moved_once_up: 0,
            slots_tracked: 0,
            flows_tracked: None,
        }
    }

    #[test]
    fn everything_that_changes_is_shown() {
        let changes = Changes {
            services: vec![
                ServiceChanges {
                    keys_changed: vec!["allow".into()],
                    backends_added: vec!["impala4".into()],
                    backends_removed: vec!["impala3".into()],
                    backends_changed: vec![BackendChange {
                        name: "impala1".into(),
                        key: "weight".into(),
                        before: 1,
                        after: 5,
                    }],
                    slots: 200,
                    slots_moved: 50,
                    slots_moved_once_up: 80,
                    slots_tracked: 45,
                    flows_tracked: Some(FlowsTracked {
                        count: 12,
                        known: false,
                    }),
                    ..service(Fate::Stays)
                },
                ServiceChanges {
                    name: "hive".into(),
                    ..service(Fate::Removed)
                },
            ],
            slots: 200,
            slots_moved: 50,
            vips_removed: vec![[192, 0, 2, 11].into()],
            vrrp: vec![VrrpChanges {
                name: "pair".into(),
                fate: VrrpFate::Stays,
                keys_changed: vec!["addresses".into(), "source".into()],
            }],
            needs_restart: vec![NeedsRestart {
                key: "datapath.mode".into(),
                running: "auto".into(),
                configured: "generic".into(),
                effect: "a restart".into(),
            }],
            ..Changes::default()
        };
        let text = render(&changes);
        for expected in [
            "REFUSED",
            "datapath.mode, auto to generic: needs a restart",
            "+ impala4",
            "- impala3 (drained first)",
            "impala1: weight 1 to 5",
            "keys: allow",
            "50 of 200 (25.0 %)",
            "80 of 200 (40.0 %)",
            " 45 ",
            "about 12",
            "is removed, and its connections with it",
            "VIPs taken off, if lb-ctl has added them: 192.0.2.11",
            "\nVRRP: pair keeps its state; keys: addresses, source\n",
            "slots moved: 50 of 200 (25.0 %)",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
    }

    #[test]
    fn nothing_is_shown_of_what_stays() {
        let changes = Changes {
            services: vec![service(Fate::Stays)],
            ..Changes::default()
        };
        assert_eq!(
            render(&changes),
            "a reload would do this; nothing has been changed\n\nthe services and backends stay as they are\n\
             slots moved: 0 of 0 (0.0 %)\n"
        );
    }
}
