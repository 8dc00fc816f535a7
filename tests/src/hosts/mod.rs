//! The hosts of a lab: network namespaces around a switch, and the processes in them.

pub(crate) mod capture;
pub(crate) mod halted;
pub(crate) mod iproute;
pub(crate) mod lab;
pub(crate) mod namespace;
mod network;
mod offload;
mod pass_program;
pub(crate) mod plan;
pub(crate) mod process;
pub(crate) mod tcp_counters;
