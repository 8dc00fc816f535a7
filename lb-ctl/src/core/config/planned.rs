//! What the configuration may say one day but not in this version.
//!
//! Such a key is refused by name instead of being ignored or called unknown, also if it is read already: whoever
//! completes a feature deletes its line here.

/// Keys, values written as `key = "value"`, and other features that are not built yet.
pub(super) const PLANNED: &[&str] = &[
    HIGHER_TIERS,
    "node.state_dir",
    "http",
    r#"service.forward = "ipip""#,
    r#"service.forward = "nat""#,
    r#"service.affinity = "client""#,
    "service.affinity_timeout",
    r#"service.balance = "load""#,
    r#"service.balance = "least-connections""#,
    r#"service.no_backend = "reset""#,
    "service.on_down",
    "service.failback",
    "service.min_healthy",
    "service.slow_start",
    "service.allow",
    r#"service.check.type = "tcp""#,
    r#"service.check.type = "http""#,
    r#"service.check.type = "https""#,
    r#"service.check.type = "hs2""#,
    r#"service.check.type = "impala""#,
    r#"service.check.type = "active-status""#,
    "service.check.interval",
    "service.check.timeout",
    "service.check.rise",
    "service.check.fall",
    "service.check.port",
    "service.check.path",
    "service.check.auth",
    "service.check.fast_interval",
    "service.check.source",
    "service.check.tls",
    "service.check.web_port",
    "service.check.web_tls",
    "service.check.ca_file",
    "service.check.server_name",
    "service.check.verify",
    "service.check.metric",
    "service.discovery",
    "vrrp",
    "peer",
];

/// A `service.backend.tier` other than 0.
pub(super) const HIGHER_TIERS: &str = "tiers above 0";

/// Whether a key (`service.allow`) or another feature is planned but not built.
pub(super) fn is_planned(feature: &str) -> bool {
    PLANNED.contains(&feature) && !built_for_test(feature)
}

#[cfg(not(test))]
fn built_for_test(_feature: &str) -> bool {
    false
}

#[cfg(test)]
fn built_for_test(feature: &str) -> bool {
    BUILT_FOR_TEST.with_borrow(|prefixes| prefixes.iter().any(|prefix| feature.starts_with(prefix)))
}

#[cfg(test)]
thread_local! {
    static BUILT_FOR_TEST: std::cell::RefCell<Vec<&'static str>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Runs a test as if all features whose names begin like this were complete.
#[cfg(test)]
pub(super) fn as_if_built<T>(prefixes: &[&'static str], test: impl FnOnce() -> T) -> T {
    struct Undo;
    impl Drop for Undo {
        fn drop(&mut self) {
            BUILT_FOR_TEST.take();
        }
    }
    BUILT_FOR_TEST.set(prefixes.to_vec());
    let _undo = Undo;
    test()
}

/// Whether a value of a key (`service.forward`, `ipip`) is planned but not built.
pub(super) fn is_planned_value(key: &str, value: &str) -> bool {
    is_planned(&format!("{key} = {value:?}"))
}

/// The message that refuses something planned.
pub(super) fn refusal(feature: &str, what_to_do: &str) -> String {
    format!("{feature} is not built yet in this version; {what_to_do}")
}
