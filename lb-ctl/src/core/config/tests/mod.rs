//! The configuration as its users meet it: a text goes in, a `Config` or the printed errors come out.

mod any_text;
mod bad_shape;
mod bad_values;
mod defaults;
mod discovery;
mod documentation;
mod health;
mod peer;
mod vrrp;

use std::fmt::Write as _;

use super::{Config, HostDefaults, parse};

/// The smallest configuration that is accepted.
const MINIMAL: &str = r#"[datapath]
interfaces = ["eth0"]
[[service]]
name = "impala"
vip = "192.0.2.10"
port = 21050
[[service.backend]]
name = "impala1"
address = "192.0.2.21"
"#;

fn host() -> HostDefaults {
    HostDefaults {
        node_name: "balancer1".into(),
    }
}

fn accept(text: &str) -> Config {
    parse("lb.toml", text, &host()).unwrap_or_else(|errors| panic!("refused:\n{errors}\nin:\n{text}"))
}

fn refuse(text: &str) -> String {
    match parse("lb.toml", text, &host()) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors.to_string(),
    }
}

/// Replaces lines of [`MINIMAL`] (counted from 1) and compares the errors without their `lb.toml:` at the
/// beginning.
fn check_refusals(cases: &[(&[usize], &str, &str)]) {
    let mut wrong = String::new();
    for (replaced, replacement, expected) in cases {
        let mut lines: Vec<&str> = MINIMAL.lines().collect();
        for (count, number) in replaced.iter().enumerate() {
            lines[number - 1] = if count == 0 { replacement } else { "" };
        }
        let found = refuse(&lines.join("\n")).replace("lb.toml:", "");
        if found != *expected {
            write!(
                wrong,
                "\n{replacement}\n  expected {expected}\n  found    {found}\n"
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
