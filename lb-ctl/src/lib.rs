//! The controller of the load balancer, and its command line.
//!
//! Imports point down only: `cli` uses `daemon`, `daemon` uses `adapters`, `adapters` use `core`.

pub mod adapters;
pub mod cli;
pub mod core;
pub mod daemon;
