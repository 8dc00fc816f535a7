//! Adapters to the outside: the kernel's BPF subsystem, its network configuration, the
//! backends whose health is checked, the operator API, the operator's programs, and files.

pub mod api;
pub mod check;
pub mod command;
pub mod config_file;
pub mod datapath;
pub mod decisions_file;
pub mod discovery;
pub mod http;
pub mod kernel_clock;
pub mod memory;
pub mod netlink;
pub mod peer;
pub mod programs;
pub mod vrrp;
