//! `lb-ctl reload`.

use std::path::Path;

use super::{output::print, runtime};
use crate::{adapters::api::client, core::changes::Changes};

pub(super) fn reload(socket: &Path, json: bool) -> anyhow::Result<()> {
    let changes = runtime()?.block_on(client::reload(socket))?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&changes)?))
    } else {
        print(&render(&changes))
    }
}

/// The changes for people.
fn render(changes: &Changes) -> String {
    let lists = [
        ("services added", &changes.services_added),
        ("services removed", &changes.services_removed),
        ("services changed", &changes.services_changed),
        ("backends added", &changes.backends_added),
        ("backends removed, draining", &changes.backends_removed),
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
    let tenths = slots_moved.saturating_mul(1000) / (*slots).max(1);
    let (percent, tenth) = (tenths / 10, tenths % 10);
    lines.push(format!(
        "slots moved: {slots_moved} of {slots} ({percent}.{tenth} %)\n"
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
            render(&changes),
            "services changed: impala\nbackends added: impala/b, impala/c\nslots moved: 50 of 200 (25.0 %)\n"
        );
        assert_eq!(
            render(&Changes::default()),
            "the services and backends are as they were\nslots moved: 0 of 0 (0.0 %)\n"
        );
    }
}
