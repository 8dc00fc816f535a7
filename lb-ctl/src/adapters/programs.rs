//! The BPF programs, as object files inside this binary.
//!
//! The package's build script compiles them from `lb-ebpf` whenever their source has changed, so what is in here is
//! never older than the rest of the binary.

/// The load balancer itself.
pub static BALANCER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/balancer"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_a_bpf_program_with_type_information() {
        // Little-endian 64-bit ELF, relocatable, machine 247: EM_BPF.
        assert_eq!(BALANCER[..6], *b"\x7fELF\x02\x01");
        assert_eq!(BALANCER[16..20], [1, 0, 247, 0]);
        // A name of a section: its type information.
        assert!(BALANCER.windows(5).any(|bytes| bytes == b".BTF\0"));
    }

    #[test]
    fn the_object_is_aligned_for_its_parser() {
        assert_eq!(BALANCER.as_ptr().align_offset(8), 0);
    }
}
