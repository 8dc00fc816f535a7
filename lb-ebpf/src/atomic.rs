//! Atomic changes of what maps hold: others change it too, on other CPUs and in the controller.
//!
//! In assembly, since Rust's own atomics do not exist on this target.

/// Adds to a counter, modulo 2^32.
///
/// # Safety
///
/// The pointer must be into a map's memory, which stays mapped while the program runs, and aligned.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u32, amount: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the instruction changes four bytes at the address, which the caller vouches for, and nothing else.
    unsafe {
        core::arch::asm!(
            "lock *(u32 *)({counter} + 0) += {amount}",
            counter = in(reg) counter,
            amount = in(wreg) amount,
        );
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = (counter, amount);
}

/// Writes `new` if the word holds `expected`. Returns whether it did.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn replace(word: *mut u32, expected: u32, new: u32) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        let found: u32;
        // SAFETY: the instruction changes four bytes at the address, which the caller vouches for, and the register for what it
        // has found.
        unsafe {
            core::arch::asm!(
                "w0 = cmpxchg32_32({word} + 0, w0, {new})",
                word = in(reg) word,
                new = in(wreg) new,
                inlateout("w0") expected => found,
            );
        }
        found == expected
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = (word, expected, new);
        false
    }
}
