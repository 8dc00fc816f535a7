//! The XDP program that lets every packet pass, on the switch's side of a balancer's cable.
//!
//! A veth transmits what its peer's native XDP program sends (`XDP_TX` and redirects) only while it has a native program
//! itself. It is attached by netlink, not by a BPF link: so it needs no process and no pin, and lives as long as the
//! interface.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result};
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

use crate::xdp_action;

// From linux/bpf.h and linux/if_link.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `struct bpf_insn`, as a number: opcode in the lowest byte, immediate value in the upper half.
type Instruction = u64;

const INSTRUCTIONS: u32 = 2;

/// `r0 = XDP_PASS; exit`
const PROGRAM: [Instruction; INSTRUCTIONS as usize] = [(xdp_action::PASS as u64) << 32 | 0xb7, 0x95];

/// The beginning of `union bpf_attr` as `BPF_PROG_LOAD` uses it. The kernel takes what is beyond its end as zero.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// Attaches the program in native mode to these interfaces of the calling thread's namespace, in place of what they carry.
pub(crate) fn attach(interfaces: &[&str]) -> Result<()> {
    if interfaces.is_empty() {
        return Ok(());
    }
    let program = load().context("cannot load the XDP program that passes everything")?;
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).context("cannot create a socket")?;
    // Made here, so that its socket is in the calling thread's namespace.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (connection, netlink, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        for &interface in interfaces {
            let index = name_to_index(&any, interface)
                .with_context(|| format!("expected an interface {interface} on the switch"))?;
            netlink
                .link()
                .set(attachment(index, program.as_raw_fd()))
                .execute()
                .await
                .with_context(|| {
                    format!(
                        "cannot attach an XDP program in native mode to {interface}, which the balancer needs"
                    )
                })?;
        }
        Ok(())
    })
}

fn attachment(index: u32, program: RawFd) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Xdp(vec![
        LinkXdp::Fd(program),
        LinkXdp::Flags(XDP_FLAGS_DRV_MODE),
    ]));
    message
}

fn load() -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attributes = ProgramLoad {
        program_type: BPF_PROG_TYPE_XDP,
        instruction_count: INSTRUCTIONS,
        instructions: PROGRAM.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        // Or a veth would refuse it, and a large MTU with it.
        flags: BPF_F_XDP_HAS_FRAGS,
        ..ProgramLoad::default()
    };
    attributes.name[..8].copy_from_slice(b"lab_pass");
    // SAFETY: the attributes have the layout and the size that the call is told, the two addresses in them are those of
    // constants, and the instruction count is that of the program. The kernel only reads all this, during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw mut attributes,
            size_of::<ProgramLoad>(),
        )
    };
    let descriptor = RawFd::try_from(result).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the successful call has returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
