//! What the kernel program and the controller share: map layouts, header parsing, the flow hash and the per-packet
//! decision.
//!
//! Everything here is `no_std`, has no I/O, no clock and no allocation, and knows packets and tables only through
//! a few small traits, [`PacketBuffer`](packet::PacketBuffer) and [`Engine`](process::Engine) above all. The XDP program instantiates
//! them with the bytes of a frame and BPF maps, the host tests with slices and ordinary collections, so both
//! run the same decision.
#![no_std]

#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod address;
pub mod affinity;
pub mod clock;
pub mod counter;
pub mod decapsulate;
pub mod decision;
pub mod flood;
pub mod forward;
pub mod harness;
pub mod hash;
pub mod headers;
pub mod icmp_error;
pub mod layout;
pub mod least_connections;
pub mod packet;
pub mod process;
pub mod slot_rule;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod translation;
