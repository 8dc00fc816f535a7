//! What tests of several parts need.

use std::time::Duration;

use super::{
    instance::Instance,
    programs::{Notifier, Overheard},
    running::Running,
};
use crate::core::{config::examples::with_vrrp, vrrp::Conditions};

/// An instance that carries the VIP and has a hook, with these keys.
pub(super) fn instance(keys: &str) -> Instance {
    let text = format!(
        "[[vrrp]]\nname = \"a\"\nvrid = 1\naddresses = [\"10.0.0.99\"]\nnotify = [\"/bin/true\"]\n{keys}"
    );
    Instance::new(1, with_vrrp(&text).vrrp.remove(0))
}

/// It has all that it needs, and is a backup at this time.
pub(super) fn backup(instance: Instance, now: Duration) -> (Running, Overheard) {
    let (notifier, overheard) = Notifier::overheard();
    (backup_of(instance, notifier, now), overheard)
}

/// The same, and this one tells of its changes.
pub(super) fn backup_of(mut instance: Instance, notifier: Notifier, now: Duration) -> Running {
    instance.conditions = Conditions {
        source: Some([10, 0, 0, 2].into()),
        ..Conditions::default()
    };
    let mut running = Running::begin(vec![instance], notifier, now).unwrap();
    running.pass(now);
    running
}
