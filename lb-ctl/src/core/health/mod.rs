//! The health of backends: what a check found, what follows from it, and who serves.
//!
//! Nothing here does I/O or looks at a clock; points in time are durations since some fixed moment of the caller's
//! monotonic clock.
//!
//! - `outcome`: what one check of one backend found.
//! - `probe`: the bytes that checks send and how the answers are read.
//! - `monitor`: one backend's health as its checks come in, and when the next one is due, by its `pace`.
//! - `selection`: the tier that serves, and who in it may be taken out, over all backends of a service.
//! - `slow_start`: how much of its weight a backend has that has just come up.

mod monitor;
mod outcome;
mod pace;
pub mod probe;
mod selection;
pub mod slow_start;

pub use monitor::{Event, Health, Monitor, Start};
pub use outcome::{Failure, Load, Outcome, Verdict};
pub use pace::Pace;
pub use selection::{
    Failback, Fraction, Guard, Member, Policy, Selection, Standing, healthy_weights, select,
};
