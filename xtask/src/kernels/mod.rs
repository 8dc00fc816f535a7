//! Tier 3: the tests of tier 1 in machines that run other kernels.
//!
//! The machine is emulated in software, also where the hardware could help: so it is the same one everywhere.

mod console;
mod initramfs;
mod machine;

use std::path::PathBuf;

use clap::ValueEnum;

pub(crate) use console::{Console, Seen, describe_exit_code};
pub(crate) use initramfs::Initramfs;
pub(crate) use machine::{Emulator, Machine};

/// A series of kernels that the product promises to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13, and in Debian 12 besides its own
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    /// What its releases' names begin with.
    pub(crate) const fn series(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Whether a release such as `6.1.0-56-cloud-amd64` or a version such as `6.1.192-2` is of this series.
    pub(crate) fn has(self, release: &str) -> bool {
        release
            .strip_prefix(self.series())
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    }
}

/// What a machine has to do: run test programs, one after the other.
pub(crate) struct Job {
    pub(crate) programs: Vec<PathBuf>,
    /// What each of them is told on its command line.
    pub(crate) arguments: Vec<String>,
    pub(crate) variables: Vec<(&'static str, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_not_mistaken_for_another_one() {
        assert!(Kernel::V6_1.has("6.1.0-56-cloud-amd64"));
        assert!(Kernel::V6_1.has("6.1-rc1"));
        assert!(!Kernel::V6_1.has("6.12.117+deb12-cloud-amd64"));
        assert!(Kernel::V6_12.has("6.12.117-1~deb12u1"));
        assert!(!Kernel::V6_12.has("6.1.192-2"));
    }
}
