//! What is measured: one table, a row for each mode, address family, state of the slots, and number of flows.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::counter::Counter;
use lb_common::harness::{FRAME_LENGTH, Stimulus};
use lb_common::headers::tcp::Flags;
use lb_common::testing::Frame;

use crate::xdp_action;

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));
/// A service in mode `dsr`.
const DSR: SocketAddr = SocketAddr::new(VIP, 21050);
/// The same over IPv6.
const DSR6: SocketAddr = SocketAddr::new(VIP6, 21050);
/// A service in mode `ipip`, whose backends have addresses of the clients' family.
const IPIP: SocketAddr = SocketAddr::new(VIP, 21056);
/// The same over IPv6.
const IPIP6: SocketAddr = SocketAddr::new(VIP6, 21056);
/// A service in mode `ipip`, whose backends have addresses of the other family.
const MIXED: SocketAddr = SocketAddr::new(VIP, 21057);
/// The same over IPv6.
const MIXED6: SocketAddr = SocketAddr::new(VIP6, 21057);
/// A service in mode `ipip` whose slots have all moved, and whose connections are all younger than that.
const MOVED_IPIP: SocketAddr = SocketAddr::new(VIP, 21058);
/// The same over IPv6.
const MOVED_IPIP6: SocketAddr = SocketAddr::new(VIP6, 21058);
/// A service in mode `nat`.
const NAT: SocketAddr = SocketAddr::new(VIP, 8006);
/// The same over IPv6.
const NAT6: SocketAddr = SocketAddr::new(VIP6, 8006);
/// A service whose backends are all down.
const ALL_DOWN: SocketAddr = SocketAddr::new(VIP, 21051);
/// A service that tells clients so.
const RESETS: SocketAddr = SocketAddr::new(VIP, 21055);
/// An address and port of this host that have no service.
const NO_SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 22);
/// The first flow's client; the others count up from it, in the network that RFC 2544 sets aside for benchmarks.
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), 32_768);
/// The same over IPv6, in the network that RFC 5180 sets aside for benchmarks.
const CLIENT6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0x2, 0, 0, 0, 0, 0, 1)), 32_768);

/// A service whose slots have all moved, and whose connections are all younger than that.
const MOVED: SocketAddr = SocketAddr::new(VIP, 21052);
/// The same over IPv6.
const MOVED6: SocketAddr = SocketAddr::new(VIP6, 21052);
/// The same with client affinity.
const AFFINE: SocketAddr = SocketAddr::new(VIP, 28000);
/// A service whose slots have all moved, and whose connections are all older than that.
const OLD: SocketAddr = SocketAddr::new(VIP, 21053);
/// The same over IPv6.
const OLD6: SocketAddr = SocketAddr::new(VIP6, 21053);
/// A service whose slots have all moved, and which gets SYNs only.
const OPENING: SocketAddr = SocketAddr::new(VIP, 21054);

/// All services.
const SERVICES: [Service; 18] = [
    service(DSR6, Slots::Settled),
    service(DSR, Slots::Settled),
    tunnel(IPIP6, Slots::Settled),
    tunnel(IPIP, Slots::Settled),
    mixed(MIXED6),
    mixed(MIXED),
    tunnel(MOVED_IPIP6, Slots::Moved),
    tunnel(MOVED_IPIP, Slots::Moved),
    translated(NAT6),
    translated(NAT),
    service(ALL_DOWN, Slots::Empty),
    service(MOVED6, Slots::Moved),
    service(MOVED, Slots::Moved),
    Service {
        options: "affinity = \"client\"",
        ..service(AFFINE, Slots::Moved)
    },
    service(OLD6, Slots::Moved),
    service(OLD, Slots::Moved),
    service(OPENING, Slots::Moved),
    Service {
        options: "no_backend = \"reset\"",
        ..service(RESETS, Slots::Empty)
    },
];

/// Numbers of flows: one, and what fits the first, second and third level of a CPU's cache, and none.
const FLOWS: [u32; 5] = [1, 1 << 10, 1 << 14, 1 << 17, 1 << 20];
/// Number of flows where only the path is of interest.
const SOME_FLOWS: u32 = 1 << 10;
/// Number of flows that is more than some tables hold.
const MANY_FLOWS: u32 = 1 << 20;
/// The first sequence number of the flows that are opened.
const SEQUENCE: u32 = 1000;

/// How many backends a service has.
const BACKENDS: u32 = 8;
/// How many translated connections a backend has where there are many: few of the ports that it could tell apart, so that each
/// connection finds one.
const CONNECTIONS_OF_A_BACKEND: u32 = 1 << 11;

/// How packets are forwarded, as the configuration has it. Each way and number of flows has tables of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forward {
    /// By MAC address.
    Dsr,
    /// In tunnels.
    Ipip,
    /// Translated.
    Nat,
}

impl Forward {
    /// The word in the configuration.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Nat => "nat",
        }
    }
}

/// A service of the bench.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    pub(super) address: SocketAddr,
    pub(super) forward: Forward,
    pub(super) slots: Slots,
    /// The family of its backends' addresses, 4 or 6.
    pub(super) backend_family: u8,
    /// A line of its configuration, beyond what all have.
    pub(super) options: &'static str,
}

impl Service {
    /// How many backends it has when there are so many flows.
    pub(super) fn backends(&self, flows: u32) -> u32 {
        match self.forward {
            Forward::Dsr | Forward::Ipip => BACKENDS,
            Forward::Nat => BACKENDS.max(flows / CONNECTIONS_OF_A_BACKEND),
        }
    }

    /// Whether its flows have records.
    pub(super) fn is_recorded(&self) -> bool {
        self.forward == Forward::Nat || self.slots == Slots::Moved
    }
}

/// The services that the tables have to hold: all, or those that forward in this way.
pub(super) fn services(forward: Option<Forward>) -> Vec<Service> {
    let is_wanted = |service: &Service| forward.is_none_or(|forward| service.forward == forward);
    SERVICES.into_iter().filter(is_wanted).collect()
}

/// What the slots of a service are filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slots {
    /// Each has its backend, and has had it for ever.
    Settled,
    /// Nobody.
    Empty,
    /// Each has moved from its backend to the next one, and is tracked.
    Moved,
}

const fn service(address: SocketAddr, slots: Slots) -> Service {
    Service {
        address,
        forward: Forward::Dsr,
        slots,
        backend_family: if address.is_ipv4() { 4 } else { 6 },
        options: "no_backend = \"drop\"",
    }
}

const fn tunnel(address: SocketAddr, slots: Slots) -> Service {
    Service {
        forward: Forward::Ipip,
        ..service(address, slots)
    }
}

const fn mixed(address: SocketAddr) -> Service {
    Service {
        backend_family: if address.is_ipv4() { 6 } else { 4 },
        ..tunnel(address, Slots::Settled)
    }
}

const fn translated(address: SocketAddr) -> Service {
    Service {
        forward: Forward::Nat,
        ..service(address, Slots::Settled)
    }
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Case {
    /// Mode of forwarding, or what else becomes of the packet.
    pub mode: &'static str,
    /// Whose tables it needs.
    pub forward: Forward,
    /// Address family, 4 or 6; `None` for what is neither.
    pub family: Option<u8>,
    /// State of the slots; `None` where no slot is asked, as by the packets of translated connections.
    pub slots: Option<SlotState>,
    /// Number of flows to which the packets belong, in turn.
    pub flows: u32,
    /// The packets of the clients.
    pub stimulus: Stimulus,
    /// Whether what is measured is not these but the backends' answers to them, which have the same flows in the same order.
    pub answers: bool,
    /// The SYNs with which the flows begin, if they have to be established before.
    pub opening: Option<Stimulus>,
    /// What must become of each of them.
    pub fate: Fate,
}

/// The state of all slots of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// No slot consults the flow table.
    Untracked,
    /// All do, and it has established records of all flows. SYNs are those of new flows.
    Tracked,
    /// All do, and it has no records: the flows are on the settled path.
    Unrecorded,
}

/// What must become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The kernel gets it unchanged, and nobody counts it.
    Pass,
    /// It is dropped and counted.
    Drop(Counter),
    /// It is answered and counted.
    Answer(Counter),
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
            Self::Pass => xdp_action::PASS,
            Self::Drop(_) => xdp_action::DROP,
            Self::Answer(_) | Self::Forward { .. } => xdp_action::TX,
        }
    }

    /// In how many counters a packet is counted.
    pub(super) const fn counted(self) -> u64 {
        match self {
            Self::Pass => 0,
            Self::Drop(_) | Self::Answer(_) | Self::Forward { .. } => 1,
        }
    }
}

/// All rows.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(untracked("dsr", DSR, DSR6));
    cases.extend(untracked("ipip", IPIP, IPIP6));
    cases.extend(untracked("ipip-mixed", MIXED, MIXED6));
    cases.extend(tracked("dsr", MOVED, MOVED6));
    cases.extend(tracked("ipip", MOVED_IPIP, MOVED_IPIP6));
    cases.push(affine());
    cases.extend(to_backends());
    cases.extend(to_clients());
    cases.extend(unrecorded());
    cases.extend(opening());
    cases.extend(exceptional());
    cases
}

/// Established connections in untracked slots.
fn untracked(mode: &'static str, four: SocketAddr, six: SocketAddr) -> impl Iterator<Item = Case> {
    families(four, six).flat_map(move |(family, client, service)| {
        let frame = Frame::new(client, service);
        FLOWS.map(|flows| {
            let fate = to(service, false);
            with_slots(mode, family, SlotState::Untracked, flows, &frame, fate)
        })
    })
}

/// Established connections in tracked slots, each with a record.
fn tracked(mode: &'static str, four: SocketAddr, six: SocketAddr) -> impl Iterator<Item = Case> {
    families(four, six).flat_map(move |(family, client, service)| {
        let (syn, next) = opened(client, service);
        FLOWS.map(|flows| Case {
            opening: Some(tcp(&syn, family, flows)),
            ..with_slots(mode, family, SlotState::Tracked, flows, &next, to(service, false))
        })
    })
}

/// Established connections in tracked slots, of clients with affinity. Each client has as many of them as the harness gives to an
/// address.
fn affine() -> Case {
    let (syn, next) = opened(CLIENT, AFFINE);
    Case {
        opening: Some(tcp(&syn, 4, SOME_FLOWS)),
        ..with_slots(
            "dsr-affine",
            4,
            SlotState::Tracked,
            SOME_FLOWS,
            &next,
            to(AFFINE, false),
        )
    }
}

/// Established connections that are translated, on their way to the backends.
fn to_backends() -> impl Iterator<Item = Case> {
    families(NAT, NAT6).flat_map(|(family, client, service)| {
        let (syn, next) = opened(client, service);
        FLOWS.map(|flows| Case {
            opening: Some(tcp(&syn, family, flows)),
            forward: Forward::Nat,
            ..without_slots("nat", Some(family), tcp(&next, family, flows), to(service, false))
        })
    })
}

/// The same connections on their way back.
fn to_clients() -> impl Iterator<Item = Case> {
    to_backends().map(|case| Case {
        mode: "nat-answer",
        answers: true,
        fate: Fate::Answer(Counter::AnswerForwarded),
        ..case
    })
}

/// The SYN of a connection, and the packet with which its client goes on.
fn opened(client: SocketAddr, service: SocketAddr) -> (Frame, Frame) {
    let frame = Frame::new(client, service);
    let syn = frame.clone().flags(Flags::SYN).sequence(SEQUENCE);
    (syn, frame.sequence(SEQUENCE + 1))
}

/// Established connections in tracked slots without a record; at last more than the table of notes can hold.
fn unrecorded() -> impl Iterator<Item = Case> {
    families(OLD, OLD6).flat_map(|(family, client, service)| {
        let frame = Frame::new(client, service);
        [SOME_FLOWS, MANY_FLOWS].map(|flows| {
            let fate = to(service, false);
            with_slots("dsr", family, SlotState::Unrecorded, flows, &frame, fate)
        })
    })
}

/// SYNs; at last more than the table of half-open records can hold, which is a flood.
fn opening() -> [Case; 3] {
    let case = |service, slots, flows| {
        let frame = Frame::new(CLIENT, service).flags(Flags::SYN);
        with_slots("dsr-syn", 4, slots, flows, &frame, to(service, true))
    };
    [
        case(DSR, SlotState::Untracked, SOME_FLOWS),
        case(OPENING, SlotState::Tracked, SOME_FLOWS),
        case(OPENING, SlotState::Tracked, MANY_FLOWS),
    ]
}

/// Packets that do not come as far as a slot's backend.
fn exceptional() -> [Case; 6] {
    let to_dsr = || Frame::new(CLIENT, DSR);
    let ipv4 = |mode, frame: Frame, flows, fate| without_slots(mode, Some(4), tcp(&frame, 4, flows), fate);
    [
        without_slots("foreign-arp", None, arp(), Fate::Pass),
        ipv4("foreign-udp", to_dsr().protocol(17), 1, Fate::Pass),
        ipv4("no-service", Frame::new(CLIENT, NO_SERVICE), 1, Fate::Pass),
        ipv4(
            "drop-no-backend",
            Frame::new(CLIENT, ALL_DOWN),
            SOME_FLOWS,
            Fate::Drop(Counter::DropNoBackend),
        ),
        ipv4(
            "reset",
            Frame::new(CLIENT, RESETS),
            SOME_FLOWS,
            Fate::Answer(Counter::ResetSent),
        ),
        ipv4(
            "drop-fragment",
            to_dsr().fragment(0x2000),
            1,
            Fate::Drop(Counter::DropFragment),
        ),
    ]
}

/// Family, client and service for both families.
fn families(four: SocketAddr, six: SocketAddr) -> impl Iterator<Item = (u8, SocketAddr, SocketAddr)> {
    [(4, CLIENT, four), (6, CLIENT6, six)].into_iter()
}

fn with_slots(
    mode: &'static str,
    family: u8,
    slots: SlotState,
    flows: u32,
    frame: &Frame,
    fate: Fate,
) -> Case {
    let forward = match fate {
        Fate::Forward { service, .. } => forward_of(service),
        Fate::Pass | Fate::Drop(_) | Fate::Answer(_) => Forward::Dsr,
    };
    Case {
        forward,
        slots: Some(slots),
        ..without_slots(mode, Some(family), tcp(frame, family, flows), fate)
    }
}

/// How a service forwards.
fn forward_of(address: SocketAddr) -> Forward {
    let service = SERVICES.iter().find(|service| service.address == address);
    service.map_or(Forward::Dsr, |service| service.forward)
}

const fn without_slots(mode: &'static str, family: Option<u8>, stimulus: Stimulus, fate: Fate) -> Case {
    Case {
        mode,
        forward: Forward::Dsr,
        family,
        slots: None,
        flows: stimulus.flows(),
        stimulus,
        answers: false,
        opening: None,
        fate,
    }
}

const fn to(service: SocketAddr, new_flow: bool) -> Fate {
    Fate::Forward { service, new_flow }
}

/// Packets that differ in the last 4 bytes of the source address, and in the source port.
fn tcp(frame: &Frame, family: u8, flows: u32) -> Stimulus {
    let (address, port) = if family == 4 {
        (14 + 12, 14 + 20)
    } else {
        (14 + 20, 14 + 40)
    };
    stimulus(frame, address, port, flows)
}

/// Answers, which differ in the last 4 bytes of the source address, the backend's, and in the destination port, as a list says.
pub(super) fn answers(frame: &Frame, family: u8, flows: u32) -> Stimulus {
    let (address, port) = if family == 4 {
        (14 + 12, 14 + 20 + 2)
    } else {
        (14 + 20, 14 + 40 + 2)
    };
    let list = if family == 4 { 1 } else { 2 };
    stimulus(frame, address, port, flows).listed(list)
}

/// How many lists there can be.
pub(super) const LISTS: u32 = 2;

/// Frames that differ in nothing, and are for nobody here.
fn arp() -> Stimulus {
    const ARP: u16 = 0x0806;
    stimulus(&Frame::new(CLIENT, DSR).ethertype(ARP), 28, 32, 1)
}

#[expect(clippy::expect_used, reason = "the offsets are constants above")]
fn stimulus(frame: &Frame, address: usize, port: usize, flows: u32) -> Stimulus {
    let headers = frame.bytes().len();
    let bytes = frame.clone().payload(&vec![0; FRAME_LENGTH - headers]).bytes();
    bytes
        .first_chunk()
        .and_then(|template| Stimulus::new(*template, address, port, flows))
        .expect("the frame is as long as a template and has room for address and port")
}

impl fmt::Display for SlotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untracked => "untracked",
            Self::Tracked => "tracked",
            Self::Unrecorded => "unrecorded",
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
