//! Adapters to the outside: the kernel's BPF subsystem, its network configuration, and the operator API.

pub mod api;
pub mod config_file;
pub mod datapath;
pub mod netlink;
pub mod programs;
