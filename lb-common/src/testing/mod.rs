//! Frames, tables and expectations for tests, shared by the host tests of this crate and the tests that run the same
//! cases in the kernel.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "test support: a fixture that contradicts itself must fail at once"
)]

mod affinity;
pub mod cases;
pub mod endpoint;
pub mod frame;
pub mod icmp;
pub mod opened;
pub mod tables;

pub use cases::{Case, Outcome, cases};
pub use frame::Frame;
pub use icmp::IcmpError;
pub use tables::HostTables;
