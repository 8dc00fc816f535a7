//! `lb-ctl reload`.

use std::path::Path;

use super::{
    output::{percent, print},
    runtime,
};
use crate::{
    adapters::api::{client, server::ReloadQuery},
    core::changes::Changes,
};

pub(super) fn reload(socket: &Path, now: bool, json: bool) -> anyhow::Result<()> {
    let query = ReloadQuery { now };
    let changes = runtime()?.block_on(client::reload(socket, &query))?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&changes)?))
    } else {
        print(&render(&changes, now))
    }
}

/// The changes for people.
fn render(changes: &Changes, now: bool) -> String {
    let removed = if now {
        "backends removed, their connections reset"
    } else {
        "backends removed, draining"
    };
    let lists = [
        ("services added", &changes.services_added),
        ("services removed", &changes.services_removed),
        ("services changed", &changes.services_changed),
        ("backends added", &changes.backends_added),
        (removed, &changes.backends_removed),
        ("backends changed", &changes.backends_changed),
    ];
    let mut lines: Vec<String> = lists
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}\n", names.join(", ")))
        .collect();
    if lines.is_empty() {
        lines.push("the services and backends are as they were\n".to_owned());
    }
    let Changes {
        slots, slots_moved, ..
    } = changes;
    lines.push(format!(
        "slots moved: {slots_moved} of {slots} ({})\n",
        percent(*slots_moved, *slots)
    ));
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_named_and_the_rest_is_not() {
        let changes = Changes {
            services_changed: vec!["impala".into()],
            backends_added: vec!["impala/b".into(), "impala/c".into()],
            slots: 200,
            slots_moved: 50,
            ..Changes::default()
        };
        assert_eq!(
            render(&changes, false),
            "services changed: impala\nbackends added: impala/b, impala/c\nslots moved: 50 of 200 (25.0 %)\n"
        );
        assert_eq!(
            render(&Changes::default(), false),
            "the services and backends are as they were\nslots moved: 0 of 0 (0.0 %)\n"
        );
    }
}
