//! The BPF file system, where the balancer pins its maps and its link.

use std::fs;

use anyhow::{Context, Result};

use crate::command;

/// Where everybody mounts it.
pub(super) const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Whether it is mounted.
pub(super) fn is_mounted() -> Result<bool> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    Ok(is_among(&mounts))
}

fn is_among(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(MOUNT_POINT) && fields.next() == Some("bpf")
    })
}

/// Mounts it until the next boot.
pub(super) fn mount() -> Result<()> {
    let mut mount = command::as_root(&[], "mount", ["-t", "bpf", "bpf", MOUNT_POINT])?;
    println!(
        "setup: mounting the BPF file system (until the next boot): {}",
        command::display(&mount)
    );
    command::run(&mut mount)
        .context("the balancer pins its maps in the BPF file system, which cannot be mounted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpf_file_system_on_the_mount_point_counts() {
        assert!(is_among(
            "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid 0 0\n"
        ));
        assert!(!is_among(
            "sysfs /sys sysfs rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n"
        ));
        assert!(!is_among("bpf /mnt/bpf bpf rw 0 0\n"));
    }
}
