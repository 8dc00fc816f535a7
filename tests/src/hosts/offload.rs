//! Switching off what a real network card would do for the stack, and what a veth merely promises.
//!
//! With `tx` and `gso` on, a packet leaves its host with an unfinished checksum or as one oversized frame. The kernel
//! keeps note of that beside the packet, and an XDP program in between, which sees the bytes only, loses the note.

use std::io;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Socket, Type};

// From linux/sockios.h and linux/ethtool.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;

/// What `ethtool -K` calls the settings, with the requests that set them.
const OFFLOADS: [(&str, u32); 3] = [
    ("tx", ETHTOOL_STXCSUM),
    ("tso", ETHTOOL_STSO),
    ("gso", ETHTOOL_SGSO),
];

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    request: u32,
    value: u32,
}

/// Does `ethtool -K <interface> tx off tso off gso off` in the calling thread's namespace.
pub(crate) fn switch_off(interface: &str) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).context("cannot create a socket")?;
    for (offload, request) in OFFLOADS {
        set(&socket, interface, EthtoolValue { request, value: 0 })
            .with_context(|| format!("cannot switch {offload} off on {interface}"))?;
    }
    Ok(())
}

fn set(socket: &Socket, interface: &str, mut value: EthtoolValue) -> Result<()> {
    let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    ensure!(
        interface.len() < name.len(),
        "the name of an interface has at most {} bytes",
        name.len() - 1
    );
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    // SAFETY: SIOCETHTOOL takes a `struct ifreq` whose name ends with a zero byte, which the length check above leaves
    // in place, and whose data points to the structure of the request; for the three requests used here that is a
    // `struct ethtool_value`. Both outlive the call, and the kernel keeps neither.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}
