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

pub mod agreement;
pub mod balancing;
pub mod bench;
pub mod clients;
pub mod demo;
pub mod emulation;
pub mod extent;
mod hosts;
pub mod impalad;
pub mod kernel_clock;
pub mod kernel_tables;
mod lifetime;
pub mod limits;
pub mod mirroring;
pub mod programs;
pub mod random;
pub mod steady;
mod wait;
pub mod xdp_action;

pub use hosts::capture::{ETH_P_ALL, Syn, SynCapture};
pub use hosts::halted::Halted;
pub use hosts::lab::{Builder, Host, Lab};
pub use hosts::namespace::Namespace;
pub use hosts::plan::{Identity, Interface, Mac, Network, PREFIX_V4, PREFIX_V6, Role, Vip};
pub use hosts::process::Process;
pub use hosts::tcp_counters::TcpCounters;
pub use lifetime::down::{Selection, down};
pub use lifetime::reaper::reap;
pub use lifetime::teardown::Removed;
pub use wait::{Observation, wait_until};
