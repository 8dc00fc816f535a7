//! Clients: of the stand-in impalad, for bulk data, and one that means no good.

pub mod flood;
pub mod held;
pub mod hs2;
pub mod http;
pub mod iperf3;
pub mod queries;
