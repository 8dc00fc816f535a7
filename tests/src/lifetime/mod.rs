//! The life of a lab: whatever happens to its owner, nothing of it stays behind.

pub(crate) mod down;
pub(crate) mod manifest;
pub(crate) mod reaper;
pub(crate) mod registry;
pub(crate) mod run;
pub(crate) mod teardown;
