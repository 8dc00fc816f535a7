//! The lab: the stand-in impalad, and what the end-to-end tests share.

pub mod hs2_client;
pub mod http_client;
pub mod impalad;
