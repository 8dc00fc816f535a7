//! Clients of the stand-in impalad that need no Python.

pub mod hs2;
pub mod http;
