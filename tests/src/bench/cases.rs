//! What is measured: one table, a row for each mode, address family, state of the slots, and number of flows.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::counter::Counter;
use lb_common::harness::{FRAME_LENGTH, Stimulus};
use lb_common::headers::tcp::Flags;
use lb_common::testing::Frame;

use super::harness::{XDP_DROP, XDP_PASS, XDP_TX};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));
/// A service in mode `dsr`.
const DSR: SocketAddr = SocketAddr::new(VIP, 21050);
/// The same over IPv6.
const DSR6: SocketAddr = SocketAddr::new(VIP6, 21050);
/// A service whose backends are all down.
const ALL_DOWN: SocketAddr = SocketAddr::new(VIP, 21051);
/// An address and port of this host that have no service.
const NO_SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 22);
/// The first flow's client; the others count up from it, in the network that RFC 2544 sets aside for benchmarks.
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), 32_768);
/// The same over IPv6, in the network that RFC 5180 sets aside for benchmarks.
const CLIENT6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0x2, 0, 0, 0, 0, 0, 1)), 32_768);

/// The services that the tables have to hold.
pub(super) const SERVICES: [Service; 3] = [
    Service {
        address: DSR6,
        has_live_backends: true,
    },
    Service {
        address: DSR,
        has_live_backends: true,
    },
    Service {
        address: ALL_DOWN,
        has_live_backends: false,
    },
];

/// Numbers of flows: one, and what fits the first, second and third level of a CPU's cache, and none.
const FLOWS: [u32; 5] = [1, 1 << 10, 1 << 14, 1 << 17, 1 << 20];
/// Number of flows where only the path is of interest.
const SOME_FLOWS: u32 = 1 << 10;

/// A service of the bench.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    pub(super) address: SocketAddr,
    pub(super) has_live_backends: bool,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Case {
    /// Mode of forwarding, or what else becomes of the packet.
    pub mode: &'static str,
    /// Address family, 4 or 6; `None` for what is neither.
    pub family: Option<u8>,
    /// State of the slots; `None` where no slot is asked.
    pub slots: Option<SlotState>,
    /// Number of flows to which the packets belong, in turn.
    pub flows: u32,
    /// The packets.
    pub stimulus: Stimulus,
    /// What must become of each of them.
    pub fate: Fate,
}

/// The state of all slots of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// No slot consults the flow table.
    Untracked,
}

/// What must become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The kernel gets it unchanged, and nobody counts it.
    Pass,
    /// It is dropped and counted.
    Drop(Counter),
    /// It goes to the backend that the service's table names.
    Forward {
        /// The service.
        service: SocketAddr,
        /// Whether it is counted as a new flow.
        new_flow: bool,
    },
}

impl Fate {
    /// The XDP action.
    pub(super) const fn action(self) -> u32 {
        match self {
            Self::Pass => XDP_PASS,
            Self::Drop(_) => XDP_DROP,
            Self::Forward { .. } => XDP_TX,
        }
    }

    /// In how many counters a packet is counted.
    pub(super) const fn counted(self) -> u64 {
        match self {
            Self::Pass => 0,
            Self::Drop(_) | Self::Forward { .. } => 1,
        }
    }
}

/// All rows.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (family, client, service) in [(4, CLIENT, DSR), (6, CLIENT6, DSR6)] {
        for flows in FLOWS {
            cases.push(Case {
                mode: "dsr",
                family: Some(family),
                slots: Some(SlotState::Untracked),
                flows,
                stimulus: tcp(Frame::new(client, service), family, flows),
                fate: to(service, false),
            });
        }
    }
    cases.push(Case {
        mode: "dsr-syn",
        family: Some(4),
        slots: Some(SlotState::Untracked),
        flows: SOME_FLOWS,
        stimulus: tcp_v4(Frame::new(CLIENT, DSR).flags(Flags::SYN), SOME_FLOWS),
        fate: to(DSR, true),
    });

    let without_slots = |mode, family, stimulus: Stimulus, fate| Case {
        mode,
        family,
        slots: None,
        flows: stimulus.flows(),
        stimulus,
        fate,
    };
    let to_dsr = || Frame::new(CLIENT, DSR);
    cases.extend([
        without_slots("foreign-arp", None, arp(), Fate::Pass),
        without_slots(
            "foreign-udp",
            Some(4),
            tcp_v4(to_dsr().protocol(17), 1),
            Fate::Pass,
        ),
        without_slots(
            "no-service",
            Some(4),
            tcp_v4(Frame::new(CLIENT, NO_SERVICE), 1),
            Fate::Pass,
        ),
        without_slots(
            "drop-no-backend",
            Some(4),
            tcp_v4(Frame::new(CLIENT, ALL_DOWN), SOME_FLOWS),
            Fate::Drop(Counter::DropNoBackend),
        ),
        without_slots(
            "drop-fragment",
            Some(4),
            tcp_v4(to_dsr().fragment(0x2000), 1),
            Fate::Drop(Counter::DropFragment),
        ),
    ]);
    cases
}

const fn to(service: SocketAddr, new_flow: bool) -> Fate {
    Fate::Forward { service, new_flow }
}

/// Packets over IPv4 that differ in the source address and port.
fn tcp_v4(frame: Frame, flows: u32) -> Stimulus {
    tcp(frame, 4, flows)
}

/// Packets that differ in the last 4 bytes of the source address, and in the source port.
fn tcp(frame: Frame, family: u8, flows: u32) -> Stimulus {
    let (address, port) = if family == 4 {
        (14 + 12, 14 + 20)
    } else {
        (14 + 20, 14 + 40)
    };
    stimulus(frame, address, port, flows)
}

/// Frames that differ in nothing, and are for nobody here.
fn arp() -> Stimulus {
    const ARP: u16 = 0x0806;
    stimulus(Frame::new(CLIENT, DSR).ethertype(ARP), 28, 32, 1)
}

#[expect(clippy::expect_used, reason = "the offsets are constants above")]
fn stimulus(frame: Frame, address: usize, port: usize, flows: u32) -> Stimulus {
    let headers = frame.bytes().len();
    let bytes = frame.payload(&vec![0; FRAME_LENGTH - headers]).bytes();
    bytes
        .first_chunk()
        .and_then(|template| Stimulus::new(*template, address, port, flows))
        .expect("the frame is as long as a template and has room for address and port")
}

impl fmt::Display for SlotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untracked => "untracked",
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode)?;
        if let Some(family) = self.family {
            write!(f, " IPv{family}")?;
        }
        if let Some(slots) = self.slots {
            write!(f, ", slots {slots}")?;
        }
        write!(f, ", flows {}", self.flows)
    }
}
