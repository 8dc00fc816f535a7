//! What the process keeps of the machine's memory.

/// Gives memory that is no longer in use back to the kernel. To be called after work that needs much of it for a moment: plans of 64
/// services are 8 MB, and the description of the kernel that loading a program reads is more. By itself the C library keeps most of that.
pub fn give_back() {
    // Other C libraries have no such call, and keep less.
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim(3) is thread-safe and touches nothing that is in use. Whether it has found anything does not matter.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}
