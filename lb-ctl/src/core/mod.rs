//! Pure cores: functions of their arguments, without I/O and without a clock.

pub mod cause;
pub mod census;
pub mod changes;
pub mod condition;
pub mod config;
pub mod discovery;
pub mod explain;
pub mod flows;
pub mod health;
pub mod interface;
pub mod interfaces;
pub mod load;
pub mod maglev;
pub mod metrics;
pub mod next_hops;
pub mod operator;
pub mod placement;
pub mod plan;
pub mod prefix;
pub mod serving;
pub mod slot_moves;
pub mod status;
pub mod sync;
pub mod time;
pub mod tunnels;
