//! What the configuration may say one day but not in this version.
//!
//! Such a key is refused by name instead of being ignored or called unknown, also if it is read already: whoever
//! completes a feature deletes its line here.

/// Keys, and values written as `key = "value"`, that are not built yet.
pub(super) const PLANNED: &[&str] = &["peer"];

/// Whether a key (`service.affinity_timeout`) is planned but not built.
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
