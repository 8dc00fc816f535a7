//! Pure cores: functions of their arguments, without I/O and without a clock.

pub mod cause;
pub mod config;
pub mod health;
pub mod interface;
pub mod maglev;
pub mod next_hops;
pub mod plan;
pub mod status;
