//! How much the longest tests do.

use std::env;

/// If it is set in the environment, they do as much as takes long, with as many connections as no operator would have.
const FULL: &str = "LAB_FULL";

/// Whether they are to do all of it.
pub fn is_full() -> bool {
    env::var_os(FULL).is_some()
}
