//! The operator API: HTTP and JSON over a unix socket.

pub mod client;
pub mod server;
