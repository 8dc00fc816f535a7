//! A client that floods a service with SYNs of addresses that are not its own.
//!
//! The fastest way that this kernel has: `BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES` runs an XDP program
//! (`lb-ebpf/src/bin/flood.rs`) on frames from a pool of pages and transmits what it returns, in batches, without a socket
//! or a socket buffer. The other end of the client's cable has to take such frames: see [`Lab::accept_xdp_from`](crate::Lab::accept_xdp_from).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::Array;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, Pod};
use lb_common::flood::{FLOOD, FRAME_LENGTH, Flood, PROGRAM};
use lb_common::headers::tcp::Flags;
use lb_common::testing::Frame;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use serde::{Deserialize, Serialize};

use crate::hosts::lab::Host;
use crate::hosts::plan::Mac;
use crate::hosts::process::Process;
use crate::programs;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flood"));

/// The program that floods, a process of its own.
const FLOODER: &str = "syn-flood";

/// Frames that are made and then transmitted together. As many as the kernel allows, and as a veth's ring holds.
const BATCH: u32 = 256;
/// Frames between two looks at whether there are enough.
const CHUNK: u32 = 1 << 16;

/// All addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// One of them.
    pub address: IpAddr,
    /// How many bits they have in common.
    pub length: u8,
}

/// What to send where.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The service.
    pub service: SocketAddr,
    /// The MAC address of the next hop on the way there.
    pub next_hop: [u8; 6],
    /// Where the SYNs seem to come from.
    pub sources: Prefix,
    /// How many to send.
    pub packets: u64,
    /// From how many threads. In a lab one is best: behind each batch it does the work of switch, balancer and backend
    /// itself. More are faster than the one CPU that serves the balancer's cable, which then drops most of it.
    pub threads: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How many SYNs were made and handed to the interface.
    pub sent: u64,
    /// What it took.
    pub seconds: f64,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw(Flood);

// SAFETY: `Flood` is `repr(C)`, `Copy`, of integers only and without padding, as a test in `lb-common` asserts.
unsafe impl Pod for Raw {}

/// Floods from this interface of the calling thread's namespace.
pub fn run(interface: &str, options: &Options) -> Result<Report> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).context("cannot create a socket")?;
    let interface = name_to_index(&any, interface)
        .with_context(|| format!("expected an interface {interface} in this namespace"))?;
    let begin = Instant::now();
    let threads = options.threads.max(1);
    // Threads are in the namespace of the one that starts them.
    let made = thread::scope(|scope| {
        let flooders: Vec<_> = (0..threads)
            .map(|thread| {
                let share = options.packets / threads + u64::from(thread < options.packets % threads);
                scope.spawn(move || Flooder::load(options, thread)?.send(interface, share))
            })
            .collect();
        let ends = flooders.into_iter().map(|flooder| {
            let end = flooder.join();
            end.unwrap_or_else(|_| Err(anyhow!("a thread of the flood has panicked")))
        });
        ends.sum::<Result<u64>>()
    })?;
    Ok(Report {
        sent: made,
        seconds: begin.elapsed().as_secs_f64(),
    })
}

/// A loaded program.
struct Flooder {
    ebpf: Ebpf,
}

impl Flooder {
    fn load(options: &Options, seed: u64) -> Result<Self> {
        let nobody = match options.sources.address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(network) => IpAddr::from((network.to_bits() & !u128::from(u32::MAX)).to_be_bytes()),
        };
        ensure!(
            nobody.is_ipv4() == options.service.is_ipv4(),
            "SYNs from {} cannot be sent to {}: these are two address families",
            options.sources,
            options.service
        );
        let template = Frame::new(SocketAddr::new(nobody, 0), options.service)
            .destination(options.next_hop)
            .flags(Flags::SYN)
            .sequence(0)
            .bytes();
        let Prefix { address, length } = options.sources;
        let flood = Flood::new(&template, address, length, seed).context("the frame is too long")?;

        let mut ebpf = Ebpf::load(OBJECT).context("cannot load the flood")?;
        let map = ebpf.map_mut(FLOOD).with_context(|| no_such_thing(FLOOD))?;
        Array::<_, Raw>::try_from(map)?.set(0, Raw(flood), 0)?;
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .with_context(|| no_such_thing(PROGRAM))?
            .try_into()?;
        program.load().context("the kernel refused the flood")?;
        Ok(Self { ebpf })
    }

    /// Sends this many frames; says how many the program has made.
    fn send(&self, interface: u32, packets: u64) -> Result<u64> {
        let program: &Xdp = self
            .ebpf
            .program(PROGRAM)
            .with_context(|| no_such_thing(PROGRAM))?
            .try_into()?;
        let context = context(interface);
        let mut left = packets;
        while left > 0 {
            let repeat = u32::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            program
                .test_run(TestRunOptions {
                    data_in: Some(&[0; FRAME_LENGTH]),
                    ctx_in: Some(&context),
                    repeat,
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH.min(repeat)),
                    ..TestRunOptions::default()
                })
                .context("cannot transmit from an XDP program; the kernel has to be 5.18 or newer")?;
            left -= u64::from(repeat);
        }
        let map = self.ebpf.map(FLOOD).with_context(|| no_such_thing(FLOOD))?;
        Ok(Array::<_, Raw>::try_from(map)?.get(&0, 0)?.0.made)
    }
}

/// `struct xdp_md` of linux/bpf.h: the frame seems to have come in on the interface, so `XDP_TX` sends it out there.
fn context(interface: u32) -> [u8; 24] {
    #[expect(clippy::cast_possible_truncation, reason = "80 bytes")]
    const END: u32 = FRAME_LENGTH as u32;
    // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    let fields = [0, END, 0, interface, 0, 0];
    let mut bytes = [0; 24];
    for (bytes, field) in bytes.as_chunks_mut().0.iter_mut().zip(fields) {
        *bytes = field.to_ne_bytes();
    }
    bytes
}

fn no_such_thing(name: &str) -> String {
    format!("the flood's object has no {name}: it was built from other sources")
}

/// A flood that runs as a process of a client.
#[derive(Debug)]
pub struct Flooding {
    process: Process,
}

impl Flooding {
    /// Begins a flood from a host. The switch has to take its frames: [`Lab::accept_xdp_from`](crate::Lab::accept_xdp_from).
    pub fn start(client: &Host, options: &Options) -> Result<Self> {
        let mut command = client.command(programs::find(FLOODER)?)?;
        command.args([
            format!("--service={}", options.service),
            format!("--next-hop={}", Mac(options.next_hop)),
            format!("--sources={}", options.sources),
            format!("--packets={}", options.packets),
            format!("--threads={}", options.threads),
        ]);
        let process = client.spawn(FLOODER, &mut command)?;
        Ok(Self { process })
    }

    /// Waits for the end of the flood.
    pub fn wait(mut self, timeout: Duration) -> Result<Report> {
        let status = self.process.wait(timeout)?;
        let output = self.process.output()?;
        ensure!(status.success(), "the flood ended with {status}: {output}");
        serde_json::from_str(&output).with_context(|| format!("the flood has printed {output:?}"))
    }

    /// Whether it is over.
    pub fn is_over(&mut self) -> Result<bool> {
        Ok(self.process.exit_status()?.is_some())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected an address, `/` and a prefix length, found {text:?}");
        let (address, length) = text.split_once('/').ok_or_else(expected)?;
        let address: IpAddr = address.parse().map_err(|_| expected())?;
        let length: u8 = length.parse().map_err(|_| expected())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if length > longest {
            return Err(expected());
        }
        Ok(Self { address, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_as_they_are_written() {
        for text in ["198.18.0.0/15", "2001:2::/48", "10.0.0.1/32"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        for text in [
            "198.18.0.0",
            "198.18.0.0/33",
            "2001:2::/129",
            "x/8",
            "10.0.0.0/-1",
        ] {
            assert!(text.parse::<Prefix>().unwrap_err().contains(text), "{text}");
        }
    }
}
