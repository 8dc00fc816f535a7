//! What the configuration may say one day but not in this version.
//!
//! Such a key is refused by name instead of being ignored or called unknown. Whoever builds a feature deletes
//! its line here and reads the key in `document`.

/// Keys, values written as `key = "value"`, and other features that are not built yet.
pub(super) const PLANNED: &[&str] = &[
    HIGHER_TIERS,
    "node.state_dir",
    "http",
    r#"service.balance = "load""#,
    r#"service.balance = "least-connections""#,
    "service.on_down",
    "service.failback",
    "service.min_healthy",
    "service.slow_start",
    r#"service.check.type = "tcp""#,
    r#"service.check.type = "http""#,
    r#"service.check.type = "https""#,
    r#"service.check.type = "hs2""#,
    r#"service.check.type = "impala""#,
    "service.check.interval",
    "service.check.timeout",
    "service.check.rise",
    "service.check.fall",
    "service.check.port",
    "service.check.path",
    "service.check.auth",
    "service.discovery",
    "vrrp",
    "peer",
];

/// A `service.backend.tier` other than 0.
pub(super) const HIGHER_TIERS: &str = "tiers above 0";

/// Whether a key (`service.allow`) or another feature is planned but not built.
pub(super) fn is_planned(feature: &str) -> bool {
    PLANNED.contains(&feature)
}

/// Whether a value of a key (`service.forward`, `ipip`) is planned but not built.
pub(super) fn is_planned_value(key: &str, value: &str) -> bool {
    is_planned(&format!("{key} = {value:?}"))
}

/// The message that refuses something planned.
pub(super) fn refusal(feature: &str, what_to_do: &str) -> String {
    format!("{feature} is not built yet in this version; {what_to_do}")
}
