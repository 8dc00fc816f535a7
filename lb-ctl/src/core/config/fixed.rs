//! What a running daemon cannot change.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::choice::Affinity;
use super::error::{ConfigError, ConfigErrors};
use super::model::{Config, Service, affinity_key};

/// A key that a reload cannot change: mostly one that a restart can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeedsRestart {
    /// The key.
    pub key: String,
    /// Its value in the running daemon.
    pub running: String,
    /// Its value in the configuration.
    pub configured: String,
    /// What it takes to change it, and what that does.
    pub effect: String,
}

/// The keys in which a configuration differs from the running one and that only a restart can change.
pub fn needs_restart(running: &Config, new: &Config) -> Vec<NeedsRestart> {
    let mut found = Vec::new();
    let mut compare = |key: &str, running: &dyn Display, configured: &dyn Display| {
        let (running, configured) = (running.to_string(), configured.to_string());
        if running != configured {
            found.push(NeedsRestart {
                key: key.to_owned(),
                running,
                configured,
                effect: effect(key).to_owned(),
            });
        }
    };
    compare("node.name", &running.node.name, &new.node.name);
    compare(
        "node.state_dir",
        &running.node.state_dir.display(),
        &new.node.state_dir.display(),
    );
    let interfaces = |config: &Config| {
        let names: Vec<&str> = config
            .datapath
            .interfaces
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        names.join(", ")
    };
    compare("datapath.interfaces", &interfaces(running), &interfaces(new));
    let (old, now) = (&running.datapath, &new.datapath);
    compare("datapath.mode", &old.mode, &now.mode);
    compare(
        "datapath.hash_seed",
        &format!("{:#x}", old.hash_seed),
        &format!("{:#x}", now.hash_seed),
    );
    compare(
        "datapath.slots_per_service",
        &old.slots_per_service,
        &now.slots_per_service,
    );
    compare("datapath.max_services", &old.max_services, &now.max_services);
    compare("datapath.max_backends", &old.max_backends, &now.max_backends);
    compare("datapath.max_flows", &old.max_flows, &now.max_flows);
    compare(
        "api.socket",
        &running.api.socket.display(),
        &new.api.socket.display(),
    );
    let listen = |config: &Config| {
        let addresses: Vec<String> = config.http.listen.iter().map(ToString::to_string).collect();
        if addresses.is_empty() {
            "nothing".to_owned()
        } else {
            addresses.join(", ")
        }
    };
    compare("http.listen", &listen(running), &listen(new));
    found.extend(affinity_changes(running, new));
    found
}

/// Refuses a configuration that differs from the running one in a key that only a restart can change.
pub fn refuse_fixed(running: &Config, new: &Config) -> Result<(), ConfigErrors> {
    let errors: Vec<ConfigError> = needs_restart(running, new)
        .iter()
        .map(|change| refusal(new, change))
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ConfigErrors::new(new.file_name.clone(), errors))
    }
}

/// A service hashes what its affinity says, so that with another one all its connections would be in other slots.
fn affinity_changes(running: &Config, new: &Config) -> Vec<NeedsRestart> {
    let changed = new.services.iter().filter_map(|service| {
        let earlier = running
            .services
            .iter()
            .find(|it| (it.vip, it.port) == (service.vip, service.port))?;
        (earlier.affinity != service.affinity).then(|| affinity_change(service, earlier.affinity))
    });
    changed.collect()
}

fn affinity_change(service: &Service, running: Affinity) -> NeedsRestart {
    NeedsRestart {
        key: affinity_key(&service.name),
        running: format!("{:?}", running.as_str()),
        configured: format!("{:?}", service.affinity.as_str()),
        effect: "another service, on another port; or remove the service, reload, put it back, reload again, which breaks its \
                 connections: they would be looked for in other slots"
            .to_owned(),
    }
}

/// Why a service cannot have another affinity than it has in the tables.
pub fn affinity_refusal(new: &Config, service: &Service, running: Affinity) -> ConfigError {
    refusal(new, &affinity_change(service, running))
}

fn refusal(new: &Config, change: &NeedsRestart) -> ConfigError {
    let NeedsRestart {
        key,
        running,
        configured,
        effect,
    } = change;
    new.places.origin(key).error(format!(
        "expected {running}, as it is running, found {configured}; a change needs {effect}"
    ))
}

/// What it takes to change a key, and what that does.
fn effect(key: &str) -> &'static str {
    match key {
        // Connections would be looked for in other slots.
        "datapath.hash_seed" | "datapath.slots_per_service" => {
            "`lb-ctl detach` and a new start, and breaks all connections"
        }
        "node.name" => "`lb-ctl detach` and a new start under the new name",
        "datapath.mode" => {
            "a restart of lb-ctl, which breaks no connection; if the program is attached in another way then, VIPs that lb-ctl has \
             added are off for a moment"
        }
        "datapath.max_services" | "datapath.max_backends" | "datapath.max_flows" => {
            "a restart of lb-ctl, which breaks no connection; everything moves into tables of the new sizes, and packets of tracked \
             slots are dropped for a moment"
        }
        "datapath.interfaces" => {
            "a restart of lb-ctl, which breaks no connection; VIPs that lb-ctl has added go to the first interface"
        }
        _ => "a restart of lb-ctl, which breaks no connection",
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HostDefaults, parse};
    use super::*;

    fn config(datapath: &str, backends: &str) -> Config {
        let text = format!(
            "[datapath]\ninterfaces = [\"eth0\"]\n{datapath}\n[[service]]\nname = \"s\"\nvip = \"10.0.0.9\"\nport = 1\n\
             [[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n{backends}"
        );
        let host = HostDefaults {
            node_name: "lb".into(),
        };
        parse("lb.toml", &text, &host).unwrap()
    }

    #[test]
    fn each_fixed_key_is_named_with_its_line() {
        let running = config("", "");
        let new = config(
            "mode = \"generic\"\nhash_seed = 7\nslots_per_service = 251\nmax_services = 2\nmax_flows = 5000",
            "",
        );
        let errors = refuse_fixed(&running, &new).unwrap_err().to_string();
        let lines: Vec<&str> = errors.lines().collect();
        assert_eq!(lines.len(), 5, "{errors}");
        assert_eq!(
            lines[0],
            "lb.toml:3: datapath.mode: expected auto, as it is running, found generic; a change needs a restart of lb-ctl, \
             which breaks no connection; if the program is attached in another way then, VIPs that lb-ctl has added are off for a \
             moment"
        );
        assert!(lines[1].starts_with("lb.toml:4: datapath.hash_seed: expected 0x1b873593cc9e2d51,"));
        assert!(lines[2].contains("breaks all connections"));
        // The key that is no longer written has its default, in no line of its own.
        let back = refuse_fixed(&new, &running).unwrap_err().to_string();
        assert!(
            back.contains("lb.toml:1: datapath.max_flows: expected 5000"),
            "{back}"
        );
    }

    #[test]
    fn a_service_keeps_its_affinity() {
        let affinity = |keys: &str| {
            let text = format!(
                "[datapath]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"s\"\nvip = \"10.0.0.9\"\nport = 1\n{keys}\n\
                 [[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n"
            );
            let host = HostDefaults {
                node_name: "lb".into(),
            };
            parse("lb.toml", &text, &host).unwrap()
        };
        let (none, client) = (affinity(""), affinity("affinity = \"client\""));
        let errors = refuse_fixed(&none, &client).unwrap_err().to_string();
        assert!(
            errors.starts_with(
                "lb.toml:7: service[s].affinity: expected \"none\", as it is running, found \"client\"; a change needs another service"
            ),
            "{errors}"
        );
        let errors = refuse_fixed(&client, &none).unwrap_err().to_string();
        assert!(
            errors.starts_with("lb.toml:3: service[s].affinity: expected \"client\""),
            "{errors}"
        );
        let longer = affinity("affinity = \"client\"\naffinity_timeout = \"1h\"");
        assert_eq!(refuse_fixed(&client, &longer), Ok(()));
    }

    #[test]
    fn backends_and_timeouts_may_change() {
        let running = config("", "");
        let new = config(
            "flow_idle_timeout = \"1h\"",
            "weight = 3\n[[service.backend]]\nname = \"b\"\naddress = \"10.0.0.2\"",
        );
        assert_eq!(refuse_fixed(&running, &new), Ok(()));
    }
}
