//! Threads that do not run for a while.

use std::{fs, io};

use anyhow::{Context as _, Result, ensure};

/// A thread of another process that does not run until this is dropped, as if the kernel did not answer it. To be dropped by the thread
/// that has made it.
#[derive(Debug)]
pub struct Halted(libc::pid_t);

impl Halted {
    /// Halts the first thread of this name.
    pub fn of(process: u32, name: &str) -> Result<Self> {
        for entry in fs::read_dir(format!("/proc/{process}/task"))? {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("comm"))?.trim_end() == name {
                let thread = entry.file_name();
                return Self::halt(thread.to_str().context("expected a number")?.parse()?);
            }
        }
        anyhow::bail!("expected a thread {name} of process {process}, found none")
    }

    fn halt(thread: libc::pid_t) -> Result<Self> {
        trace(libc::PTRACE_SEIZE, thread)?;
        let halted = Self(thread);
        trace(libc::PTRACE_INTERRUPT, thread)?;
        let mut status = 0;
        // SAFETY: the status is an int that outlives the call.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        ensure!(
            waited == thread && libc::WIFSTOPPED(status),
            "expected thread {thread} to stop, found {waited} with status {status}"
        );
        Ok(halted)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        // If it has ended there is nothing to let go of.
        let _ = trace(libc::PTRACE_DETACH, self.0);
    }
}

fn trace(request: libc::c_uint, thread: libc::pid_t) -> Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests take no data: no memory of ours or of the process is touched.
    let result = unsafe { libc::ptrace(request, thread, nothing, nothing) };
    ensure!(
        result == 0,
        "ptrace of thread {thread}: {}",
        io::Error::last_os_error()
    );
    Ok(())
}
