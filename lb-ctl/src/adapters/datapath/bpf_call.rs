//! bpf(2), for what aya does not offer.

use std::{io, os::fd::RawFd};

/// Commands, from `enum bpf_cmd` of linux/bpf.h.
pub(super) mod command {
    pub(in super::super) const MAP_LOOKUP: libc::c_int = 1;
    pub(in super::super) const MAP_UPDATE: libc::c_int = 2;
    pub(in super::super) const OBJECT_GET: libc::c_int = 7;
    pub(in super::super) const MAP_LOOKUP_AND_DELETE: libc::c_int = 21;
    pub(in super::super) const MAP_LOOKUP_BATCH: libc::c_int = 24;
    pub(in super::super) const LINK_DETACH: libc::c_int = 34;
}

/// bpf(2). The attributes may be written to by the kernel, as the command says.
///
/// # Safety
///
/// `attributes` must be a prefix of `union bpf_attr` with what `command` wants, and pointers in it must be valid for what
/// the command does with them.
pub(super) unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the caller vouches for the attributes; their size is told, and the kernel takes what is beyond as zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    match RawFd::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}
