//! The BPF programs, as object files inside this binary.
//!
//! The package's build script compiles them from `lb-ebpf` whenever their source has changed, so what is in here is
//! never older than the rest of the binary.

/// The load balancer itself.
pub static BALANCER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/balancer"));

/// The decapsulator, for backends.
pub static DECAP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_are_bpf_programs_with_type_information() {
        for object in [BALANCER, DECAP] {
            // Little-endian 64-bit ELF, relocatable, machine 247: EM_BPF.
            assert_eq!(object[..6], *b"\x7fELF\x02\x01");
            assert_eq!(object[16..20], [1, 0, 247, 0]);
            // A name of a section: its type information.
            assert!(object.windows(5).any(|bytes| bytes == b".BTF\0"));
        }
    }

    #[test]
    fn the_objects_are_aligned_for_their_parser() {
        for object in [BALANCER, DECAP] {
            assert_eq!(object.as_ptr().align_offset(8), 0);
        }
    }
}
