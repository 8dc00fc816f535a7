//! New connections on their way: the SYNs that an interface takes in, with the kernel's own time for each.

use std::io::{self, ErrorKind, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, SocketType, socket};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::hosts::lab::{Host, Lab};
use crate::hosts::plan::Mac;

// From linux/if_ether.h, linux/filter.h and linux/sockios.h.
/// All protocols, in network order, as `socket` wants it.
pub const ETH_P_ALL: i32 = 3u16.to_be() as i32;
const ETHERTYPE_IPV4: u32 = 0x0800;
const SKF_AD_IFINDEX: u32 = 0xffff_f000 + 8;
const SIOCGSTAMPNS: libc::c_ulong = 0x8907;

const TCP: u32 = 6;
/// Where the client's port is in an Ethernet frame with TCP in IPv4 without options.
const SOURCE_PORT: usize = 34;
/// How often the thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// For a burst of SYNs that comes while the thread does not run.
const BUFFER: usize = 4 << 20;

/// A SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// When the kernel has seen it, by the wall clock, as logs have it.
    pub at: SystemTime,
    /// To whose MAC address.
    pub to: Mac,
    /// From which port.
    pub port: u16,
}

/// The SYNs to an IPv4 address that leave a host by its `eth0`, whomever they reach. Until it is dropped.
#[derive(Debug)]
pub struct SynCapture {
    seen: Arc<Mutex<Vec<Syn>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// The same socket as the thread's.
    socket: Socket,
}

impl SynCapture {
    /// Captures what a host sends to this address, on the switch, where its frames arrive.
    pub fn of(lab: &Lab, host: &Host, to: Ipv4Addr) -> Result<Self> {
        let port = host.first().port.as_str();
        let mut socket = lab
            .switch()
            .enter(|| open(port, to))?
            .with_context(|| format!("cannot capture on the switch's port {port}"))?;
        let same = socket.try_clone()?;
        let (seen, ends) = (Arc::<Mutex<Vec<Syn>>>::default(), Arc::<AtomicBool>::default());
        let thread = thread::spawn({
            let (seen, ends) = (Arc::clone(&seen), Arc::clone(&ends));
            move || {
                let mut frame = [0; 64];
                while !ends.load(Ordering::Relaxed) {
                    match socket.read(&mut frame) {
                        Ok(length) => {
                            let syn = timestamp(&socket)
                                .ok()
                                .zip(frame.get(..length).and_then(of_frame));
                            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                            seen.extend(syn.map(|(at, (to, port))| Syn { at, to, port }));
                        }
                        Err(error) if is_passing(&error) => {}
                        // The interface is gone, and the lab with it.
                        Err(_) => return,
                    }
                }
            }
        });
        Ok(Self {
            seen,
            ends,
            thread: Some(thread),
            socket: same,
        })
    }

    /// For how many SYNs the kernel had no room since this was last asked.
    pub fn lost(&self) -> Result<u32> {
        // struct tpacket_stats: the number of packets, and how many of them were dropped.
        let mut statistics = [0_u32; 2];
        let mut length = libc::socklen_t::try_from(size_of_val(&statistics))?;
        // SAFETY: the kernel writes no more than `length` bytes of the counters, and its true length; both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error()).context("cannot ask what a capture has lost");
        }
        let [_, lost] = statistics;
        Ok(lost)
    }

    /// The SYNs so far, in the order in which they were seen. More than one of a connection if it was sent again.
    pub fn syns(&self) -> Vec<Syn> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for SynCapture {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    // A port of the switch that is set down is an error once.
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    ) || error.kind() == ErrorKind::NetworkDown
}

/// A socket for the SYNs that come in by this interface of the calling thread's namespace, and those that go out by it.
fn open(interface: &str, to: Ipv4Addr) -> Result<Socket> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let index = name_to_index(&any, interface)?;
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ETH_P_ALL)))?;
    socket.attach_filter(&filter(index, to))?;
    // Whatever the host's limit for others is.
    set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    socket.set_read_timeout(Some(LOOK))?;
    // What came before there was a filter.
    socket.set_nonblocking(true)?;
    while (&socket).read(&mut [0; 1]).is_ok() {}
    socket.set_nonblocking(false)?;
    // To ask for a time has the kernel keep it for all frames that follow; before the first one there is none.
    let _ = timestamp(&socket);
    Ok(socket)
}

/// Lets frames of this interface pass that are a SYN to this address, in packets without IP options.
fn filter(interface: u32, to: Ipv4Addr) -> [SockFilter; 13] {
    let (load_word, load_half, load_byte) = (0x20, 0x28, 0x30);
    let (equal, mask, verdict) = (0x15, 0x54, 0x06);
    let run = |code, value| SockFilter::new(code, 0, 0, value);
    // What is not equal goes to the last instruction, so many further on, which refuses.
    let demand = |value, refuse: u8| SockFilter::new(equal, 0, refuse, value);
    [
        run(load_word, SKF_AD_IFINDEX),
        demand(interface, 10),
        run(load_half, 12),
        demand(ETHERTYPE_IPV4, 8),
        run(load_byte, 23),
        demand(TCP, 6),
        run(load_word, 30),
        demand(to.to_bits(), 4),
        run(load_byte, 47),
        // SYN and ACK, of which only the one is wanted.
        run(mask, 0x12),
        demand(0x02, 1),
        run(verdict, u32::MAX),
        run(verdict, 0),
    ]
}

/// The addressee and the client's port of a SYN.
fn of_frame(frame: &[u8]) -> Option<(Mac, u16)> {
    let to = *frame.first_chunk()?;
    let port = *frame.get(SOURCE_PORT..)?.first_chunk()?;
    Some((Mac(to), u16::from_be_bytes(port)))
}

/// When the frame that was read last has come.
fn timestamp(socket: &Socket) -> io::Result<SystemTime> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: SIOCGSTAMPNS writes a `struct timespec`, which outlives the call, and the kernel does not keep its address.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSTAMPNS, &raw mut time) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let part = |part: i64| u64::try_from(part).map_err(io::Error::other);
    let since_epoch = Duration::from_secs(part(time.tv_sec)?) + Duration::from_nanos(part(time.tv_nsec)?);
    Ok(SystemTime::UNIX_EPOCH + since_epoch)
}
