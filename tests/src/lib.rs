//! The lab: hosts in network namespaces for tests, demonstrations and experiments.
//!
//! ```no_run
//! use std::net::TcpStream;
//! use std::time::Duration;
//! use lab::{Lab, wait_until};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::builder().backends(3).start()?;
//! let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
//! let server = backend.spawn("server", backend.command("iperf3")?.arg("-s"))?;
//! let address = (backend.v4(), 5201);
//! client.enter(|| wait_until("the server to listen", Duration::from_secs(5), || TcpStream::connect(address)))??;
//! # Ok(())
//! # }
//! ```

mod down;
mod iproute;
mod lab;
mod manifest;
mod namespace;
mod network;
mod offload;
mod pass_program;
mod plan;
mod process;
mod reaper;
mod registry;
mod run;
mod teardown;
mod wait;

pub use crate::down::{Selection, down};
pub use crate::lab::{Builder, Host, Lab};
pub use crate::namespace::Namespace;
pub use crate::plan::{Identity, Mac, PREFIX_V4, PREFIX_V6, Role, Vip};
pub use crate::process::Process;
pub use crate::reaper::reap;
pub use crate::teardown::Removed;
pub use crate::wait::{Observation, wait_until};
