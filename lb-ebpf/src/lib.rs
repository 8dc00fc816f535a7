//! What the XDP programs are made of: maps, and access to the bytes of a frame.
//!
//! Whatever can be decided without them is in `lb-common`. The library builds on the host too, so that clippy,
//! rustdoc and rust-analyzer see it; the programs themselves (`src/bin`) are real only on the BPF target.
#![no_std]
#![cfg_attr(
    target_arch = "bpf",
    feature(asm_experimental_arch),
    expect(unstable_features, reason = "assembly for this target is one")
)]

mod atomic;
pub mod frame;
pub mod maps;
mod news;
mod rare;
