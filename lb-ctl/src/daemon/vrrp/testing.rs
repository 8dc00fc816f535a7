//! What tests of several parts need.

use std::time::Duration;

use super::{
    instance::Instance,
    programs::{Notifier, Overheard},
    running::Running,
};
use crate::core::{
    config::{Config, HostDefaults, parse},
    vrrp::Conditions,
};

/// A configuration with one service, of the VIP 10.0.0.99, and what follows.
pub(super) fn config(vrrp: &str) -> Config {
    let text = format!(
        "[datapath]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"s\"\nvip = \"10.0.0.99\"\nport = 1\n\
         [[service.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n{vrrp}"
    );
    let host = HostDefaults {
        node_name: "lb".into(),
    };
    parse("lb.toml", &text, &host).unwrap()
}

/// An instance that carries the VIP and has a hook, with these keys.
pub(super) fn instance(keys: &str) -> Instance {
    let text = format!(
        "[[vrrp]]\nname = \"a\"\nvrid = 1\naddresses = [\"10.0.0.99\"]\nnotify = [\"/bin/true\"]\n{keys}"
    );
    Instance::new(1, config(&text).vrrp.remove(0))
}

/// It has all that it needs, and is a backup at this time.
pub(super) fn backup(mut instance: Instance, now: Duration) -> (Running, Overheard) {
    instance.conditions = Conditions {
        source: Some([10, 0, 0, 2].into()),
        ..Conditions::default()
    };
    let (notifier, overheard) = Notifier::overheard();
    let mut running = Running::begin(vec![instance], notifier, now).unwrap();
    running.pass(now);
    (running, overheard)
}
