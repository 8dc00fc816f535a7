//! The sample configuration and the manual say what the parser does.

use super::{accept, refuse};

/// The sample configuration.
pub(super) const SAMPLE: &str = include_str!("../../../../../examples/lb.toml");

const MANUAL: &str = include_str!("../../../../../docs/configuration.md");

const OPERATIONS: &str = include_str!("../../../../../docs/operations.md");

#[test]
fn no_row_is_cut_off_from_its_table() {
    for text in [MANUAL, OPERATIONS] {
        let lines: Vec<&str> = text.lines().collect();
        for (number, rows) in lines.windows(3).enumerate() {
            let is_first = rows[1].starts_with('|') && !rows[0].starts_with('|');
            assert!(
                !is_first || rows[2].starts_with("| ---"),
                "line {}: {}",
                number + 2,
                rows[1]
            );
        }
    }
}

#[test]
fn the_manual_shows_maps_where_they_are_pinned() {
    let pins: Vec<&str> = OPERATIONS
        .lines()
        .filter(|line| line.contains("map dump pinned"))
        .collect();
    let (version, name) = (lb_common::layout::VERSION, lb_common::layout::map::SERVICES);
    let command = format!("    bpftool map dump pinned /sys/fs/bpf/lb-ctl/NODE/v{version}/maps/{name}");
    assert_eq!(pins, [command]);
}

#[test]
fn the_sample_is_accepted() {
    let config = accept(SAMPLE);
    let services: Vec<_> = config
        .services
        .iter()
        .map(|it| (it.name.as_str(), it.port, it.backends.len()))
        .collect();
    assert_eq!(
        services,
        [
            ("impala", 21050, 3),
            ("impala-beeswax", 21000, 3),
            ("impala-http", 28000, 3),
            ("impala-mapped", 8006, 2)
        ]
    );
}

#[test]
fn the_sample_shows_every_default_as_it_is() {
    let mut uncommented = String::new();
    for line in SAMPLE.lines() {
        // "#key = value" without a space after the hash is a default, "# words" is prose.
        let default = line
            .trim_start()
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        uncommented.push_str(default.unwrap_or(line));
        uncommented.push('\n');
    }
    assert_ne!(uncommented, SAMPLE);
    assert_eq!(accept(&uncommented), accept(SAMPLE));
}

#[test]
fn the_pair_of_the_sample_is_accepted_without_its_hashes() {
    let (_, rest) = SAMPLE.split_once("# [[vrrp]]").unwrap();
    let pair = rest.split("\n\n").next().unwrap();
    // Tables and keys; other lines are prose.
    let is_toml = |line: &&str| line.starts_with('[') || line.contains(" = ");
    let lines = pair.lines().filter_map(|line| line.strip_prefix("# "));
    let lines: Vec<&str> = lines.filter(is_toml).collect();
    let config = accept(&format!("{SAMPLE}\n[[vrrp]]\n{}\n", lines.join("\n")));
    assert_eq!((config.vrrp.len(), config.vrrp[0].track.len()), (1, 2));
    assert!(config.vips_of_ours_alone().is_empty() && config.peer.is_some());
}

#[test]
fn the_manual_describes_every_key() {
    // A key that resembles none makes the parser list the keys of each table itself.
    let unknown = "zzzzzzzz = 1\n";
    let text = format!(
        "{unknown}[node]\n{unknown}[datapath]\n{unknown}[api]\n{unknown}[http]\n{unknown}[[service]]\n{unknown}[service.check]\n{unknown}\
         [service.discovery]\n{unknown}\
         [[service.backend]]\n{unknown}[[vrrp]]\n{unknown}[[vrrp.track]]\n{unknown}[peer]\n{unknown}"
    );
    let errors = refuse(&text);
    let lists: Vec<&str> = errors
        .lines()
        .filter_map(|line| line.split_once("use one of "))
        .map(|(_, keys)| keys)
        .collect();
    assert_eq!(lists.len(), 12, "{errors}");
    for key in lists.iter().flat_map(|keys| keys.split(", ")) {
        let in_a_table = MANUAL.contains(&format!("| `{key}` |"));
        let as_a_heading = MANUAL.contains(&format!("{key}]"));
        assert!(in_a_table || as_a_heading, "{key}");
    }
}

#[test]
fn the_examples_of_the_manual_are_accepted() {
    let examples: Vec<&str> = MANUAL
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"))
        .map(|(example, _)| example)
        .collect();
    assert!(!examples.is_empty());
    for example in examples {
        accept(example);
    }
}
