//! What can go wrong with the kernel's BPF subsystem.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::{MapError, xdp::XdpMapError},
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};

/// Why the XDP program or its maps could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A daemon runs for the node.
    #[error("a daemon is running for node {node}: stop it first")]
    NodeBusy {
        /// The node's name.
        node: String,
    },
    /// The caller may not use BPF.
    #[error(
        "the kernel's BPF programs and pins are for root: run lb-ctl as root, with the capabilities CAP_BPF, CAP_NET_ADMIN and \
         CAP_PERFMON at least"
    )]
    NotPermitted,
    /// The BPF file system is not there, and this process may not mount it.
    #[error(
        "{path}: expected the BPF file system, which is not mounted there, and may not be mounted by this process: `mount -t bpf \
         bpf {path}`, which systemd does at boot"
    )]
    NotMounted {
        /// Where it should be.
        path: &'static str,
    },
    /// What would have to be put back if it fails cannot be kept.
    #[error(
        "another datapath.mode and other sizes of tables at once need the capability CAP_SYS_ADMIN: restart lb-ctl with the one \
         change, and then with the other"
    )]
    ModeAndSizes,
    /// The maps could not be created, or the object could not be read.
    #[error("the XDP program's maps could not be created")]
    Load(#[source] Box<EbpfError>),
    /// The kernel refused the program.
    #[error("the kernel refused the XDP program; lb-ctl needs Linux 6.1 or newer")]
    Verify(#[source] Box<ProgramError>),
    /// The object file in this binary is not the one that this code was written for.
    #[error(
        "the XDP object in this binary has no {missing}: it was built from other sources, build lb-ctl anew"
    )]
    Object {
        /// What it lacks.
        missing: &'static str,
    },
    /// A map could not be read or written.
    #[error("a BPF map could not be accessed")]
    Map(#[from] MapError),
    /// A program operation failed.
    #[error("the XDP program could not be used")]
    Program(#[from] ProgramError),
    /// A map could not be read or written.
    #[error("{what} of a BPF map failed")]
    Access {
        /// What was attempted.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A map of an earlier run is not what this version makes.
    #[error(
        "{path}: expected {difference}: another version of lb-ctl has made this map; use that version, or remove the maps, \
         and break the connections that live in them, with `lb-ctl detach`"
    )]
    Layout {
        /// The path of the pin.
        path: PathBuf,
        /// What was expected, and what was found.
        difference: String,
    },
    /// Some maps of an earlier run are there, and others are not.
    #[error(
        "{path}: expected this map beside the others of the earlier run, found none: somebody has removed it; remove the others \
         too with `lb-ctl detach`"
    )]
    Incomplete {
        /// The path of the pin that is missing.
        path: PathBuf,
    },
    /// What is in a table does not fit into one of the configured size.
    #[error(
        "the entries of the table {name} of the earlier run do not fit into one of the configured size: raise it again \
         (max_flows, max_services or max_backends)"
    )]
    TooSmall {
        /// The name of the map.
        name: &'static str,
    },
    /// An earlier run of another version carries the interface.
    #[error(
        "interface {interface} carries the program of another version of lb-ctl, whose tables have layout {found}, not \
         {expected}: use that version, or remove it, and break the connections through it, with `lb-ctl detach`"
    )]
    OtherVersion {
        /// The interface.
        interface: String,
        /// The layout version of its pins.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// A table could not be mapped.
    #[error("mapping {bytes} bytes of a table into memory failed")]
    MapArray {
        /// How much was to be mapped.
        bytes: usize,
        /// The kernel's reason.
        source: io::Error,
    },
    /// An interface could not be made known as a way out.
    #[error("the interface with index {index} could not be written to the table of devices")]
    Device {
        /// The interface's index.
        index: u32,
        /// The kernel's reason.
        source: Box<XdpMapError>,
    },
    /// A slot beyond the table.
    #[error("slot {index} was asked for, the table has {slots}: a fault of the controller")]
    NoSuchSlot {
        /// The slot.
        index: u32,
        /// The table's size.
        slots: u32,
    },
    /// The program could not be attached in any of the modes tried.
    #[error("no XDP program could be attached to interface {interface}; tried {}", tried.join("; "))]
    Attach {
        /// The interface.
        interface: String,
        /// Each mode with the kernel's reason.
        tried: Vec<String>,
    },
    /// Somebody else's program is there.
    #[error(
        "interface {interface} already carries an XDP program that is not ours{}: remove it \
         (`ip link set dev {interface} xdp off` for most) or name another interface",
        program.map_or_else(String::new, |id| format!(" (program id {id})"))
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// The id of the program there, when known.
        program: Option<u32>,
    },
    /// The BPF file system could not be used.
    #[error("{path}: {what}")]
    FileSystem {
        /// The path.
        path: PathBuf,
        /// What was attempted.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A map or link could not be pinned.
    #[error("pinning to {path} failed")]
    Pin {
        /// The path of the pin.
        path: PathBuf,
        /// The kernel's reason.
        source: Box<PinError>,
    },
    /// A pinned link could not be used.
    #[error(
        "the XDP link pinned at {path} could not be used; `lb-ctl detach`, or `lb-ctl decap --detach` on a backend, removes it"
    )]
    Link {
        /// The path of the pin.
        path: PathBuf,
        /// The kernel's reason.
        source: Box<LinkError>,
    },
}

impl DatapathError {
    /// Whether a map had no room for an entry.
    pub(super) fn is_full(&self) -> bool {
        const E2BIG: i32 = 7;
        matches!(self, Self::Access { source, .. } if source.raw_os_error() == Some(E2BIG))
    }

    /// Whether the kernel refuses it to this process.
    pub(super) fn is_not_permitted(&self) -> bool {
        is_permission(self)
    }

    pub(super) fn load(error: EbpfError) -> Self {
        if is_permission(&error) {
            Self::NotPermitted
        } else {
            Self::Load(Box::new(error))
        }
    }

    pub(super) fn verify(error: ProgramError) -> Self {
        if is_permission(&error) {
            Self::NotPermitted
        } else {
            Self::Verify(Box::new(error))
        }
    }
}

/// The kernel's reason in a chain of errors.
pub(super) fn os_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

/// EPERM is about the caller. EACCES, which the standard library takes for the same, is the verifier's word about a program
/// that reaches where it may not.
fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    const EPERM: i32 = 1;
    os_error(error).and_then(io::Error::raw_os_error) == Some(EPERM)
}
