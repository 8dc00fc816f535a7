//! Clients of the stand-in impalad that need no Python, and one that means no good.

pub mod flood;
pub mod hs2;
pub mod http;
