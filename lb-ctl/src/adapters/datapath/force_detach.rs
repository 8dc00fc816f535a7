//! Detaching what a pinned link attaches, at once.
//!
//! Removing the pin alone is not enough: the kernel lets go of the link some time later (an inode of bpffs is freed after
//! an RCU grace period, the link in a work queue), and until then nothing else can be attached. aya has no
//! `BPF_LINK_DETACH`, so the two system calls are made here.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use super::bpf_call::{bpf, command};

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjectGet {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkDetach {
    descriptor: u32,
}

/// Detaches the link pinned at `path` from its interface (Linux 5.9 and newer). The pin stays, of a link that does
/// nothing any more. Nothing happens to a link whose interface has gone.
pub(super) fn force_detach(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let link = open(&path)?;
    let mut attributes = LinkDetach {
        descriptor: link.as_raw_fd().cast_unsigned(),
    };
    // SAFETY: the attributes are those of the command, begin where `union bpf_attr` begins, and are only read.
    unsafe { bpf(command::LINK_DETACH, &mut attributes) }.map(drop)
}

fn open(path: &CStr) -> io::Result<OwnedFd> {
    let mut attributes = ObjectGet {
        path: path.as_ptr().expose_provenance() as u64,
        descriptor: 0,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command; the path in them is terminated and outlives the call.
    let descriptor = unsafe { bpf(command::OBJECT_GET, &mut attributes) }?;
    // SAFETY: the call has returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
