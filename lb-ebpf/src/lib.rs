//! The XDP programs' shared part: maps, packet access, and nothing that could be decided in `lb-common`.
//!
//! The library builds on the host as well, so that clippy, rustdoc and rust-analyzer see it; the programs
//! themselves (`src/bin`) are real only on the BPF target.
#![no_std]
