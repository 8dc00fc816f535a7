//! Whether everything takes ten times as long.

/// Whether this process runs in an emulated machine of tier 3, where tests do less of what the host's own kernel has been through.
pub fn is_emulated() -> bool {
    std::env::var_os("LAB_EMULATED").is_some()
}
