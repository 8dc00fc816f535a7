//! bpf(2), for what aya does not have.

use std::{io, os::fd::RawFd};

/// Does what `command` says; the kernel may write into the attributes.
///
/// # Safety
///
/// `attributes` must be a prefix of `union bpf_attr` with what `command` wants, and pointers in it must be valid.
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
