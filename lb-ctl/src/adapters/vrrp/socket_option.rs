//! Socket options for which socket2 has no name.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use socket2::Socket;

/// Sets one.
///
/// # Safety
///
/// `T` is what the kernel takes for this option at this level, and has no pointers in it.
pub(super) unsafe fn set<T>(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the descriptor is the socket's, which outlives the call. The pointer leads to a value of this length, which the kernel reads
    // and, as the caller says, takes for nothing else.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>().try_into().unwrap_or_default(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
