//! The tables as ordinary collections.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use super::{cases::CLIENT_WITHOUT_PORT, frame::BALANCER_MAC};
use crate::{
    address::Address,
    counter::Counter,
    decision::{Memory, Tables},
    headers::tcp::Flags,
    layout::{
        Affinity, AllowedKey, ClientKey, FlowKey, FlowRecord, Forwarding, HalfOpen, Live, NO_TARGET, News,
        NextHop, Node, Return, ReturnKey, Service, ServiceKey, SettledFlow, Slot, Target, Traffic, flag,
        live,
    },
    process::{Action, Engine, process},
    slot_rule::{self, Effect, Records, Use},
    testing::frame::Frame,
    translation::WaysBack,
};

/// How many slots each service of [`HostTables::fixture`] has.
pub const SLOTS: u32 = 251;
/// The seed of the flow hash in [`HostTables::fixture`].
pub const SEED: u64 = 0x5eed;
/// The VIP of the services of [`HostTables::fixture`] over IPv4.
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
/// The VIP of the services of [`HostTables::fixture`] over IPv6.
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));
/// A service whose slots all name target 1.
pub const ONE: SocketAddr = SocketAddr::new(VIP, 21050);
/// A service whose slots name targets 1, 2 and 3 in turn.
pub const THREE: SocketAddr = SocketAddr::new(VIP, 21051);
/// Like [`ONE`], over IPv6.
pub const ONE6: SocketAddr = SocketAddr::new(VIP6, 21050);
/// Like [`THREE`], over IPv6.
pub const THREE6: SocketAddr = SocketAddr::new(VIP6, 21051);
/// A service without backends.
pub const NONE: SocketAddr = SocketAddr::new(VIP, 21052);
/// A service without backends that says so.
pub const REFUSING: SocketAddr = SocketAddr::new(VIP, 21055);
/// Like [`REFUSING`], over IPv6.
pub const REFUSING6: SocketAddr = SocketAddr::new(VIP6, 21055);
/// A service with target 1 that may be used from [`ALLOWED`] only.
pub const RESTRICTED: SocketAddr = SocketAddr::new(VIP, 21056);
/// Like [`RESTRICTED`], over IPv6, for [`ALLOWED6`].
pub const RESTRICTED6: SocketAddr = SocketAddr::new(VIP6, 21056);
/// From where [`RESTRICTED`] may be used: the first address, and the length of the prefix.
pub const ALLOWED: (IpAddr, u32) = (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0)), 25);
/// From where [`RESTRICTED6`] may be used.
pub const ALLOWED6: (IpAddr, u32) = (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x7, 0, 0, 0, 0, 0)), 65);
/// Like [`THREE`], with affinity: all connections of a client have one slot.
pub const AFFINE: SocketAddr = SocketAddr::new(VIP, 21057);
/// Like [`AFFINE`], over IPv6.
pub const AFFINE6: SocketAddr = SocketAddr::new(VIP6, 21057);
/// For how many ticks a client of [`AFFINE`] keeps its target.
pub const AFFINITY_TIMEOUT: u32 = 839;
/// A service whose only target has no MAC address yet.
pub const UNRESOLVED: SocketAddr = SocketAddr::new(VIP, 21053);
/// A service whose slots name a target that does not exist.
pub const DANGLING: SocketAddr = SocketAddr::new(VIP, 21054);
/// A service that translates, whose slots all name [`NAT_TARGET`].
pub const NAT: SocketAddr = SocketAddr::new(VIP, 8006);
/// Like [`NAT`], over IPv6, with [`NAT6_TARGET`].
pub const NAT6: SocketAddr = SocketAddr::new(VIP6, 8006);
/// The backend behind [`NAT`].
pub const NAT_BACKEND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 105)), 21050);
/// The backend behind [`NAT6`].
pub const NAT_BACKEND6: SocketAddr = SocketAddr::new(
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x106)),
    21050,
);
/// A client with an established connection to [`NAT`], for which its own port stands.
pub const NAT_CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 50_200);
/// The same for [`NAT6`].
pub const NAT_CLIENT6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7)), 50_200);
/// The MAC address behind [`NAT`].
pub const NAT_MAC: [u8; 6] = [0x02, 0, 0, 1, 0, 8];
/// The MAC address behind [`NAT6`].
pub const NAT_MAC6: [u8; 6] = [0x02, 0, 0, 1, 0, 9];

/// A service whose packets reach their only backend through IPv4 in IPv4.
pub const V4_IN_V4: SocketAddr = SocketAddr::new(VIP, 21060);
/// A service whose packets reach their only backend through IPv4 in IPv6.
pub const V4_IN_V6: SocketAddr = SocketAddr::new(VIP, 21061);
/// A service whose packets reach their only backend through IPv6 in IPv4.
pub const V6_IN_V4: SocketAddr = SocketAddr::new(VIP6, 21060);
/// A service whose packets reach their only backend through IPv6 in IPv6.
pub const V6_IN_V6: SocketAddr = SocketAddr::new(VIP6, 21061);

/// The id of the target in [`HostTables::fixture`] that is reached through IPv4.
pub const TUNNEL_V4_TARGET: u16 = 5;
/// The id of the target in [`HostTables::fixture`] that is reached through IPv6.
pub const TUNNEL_V6_TARGET: u16 = 6;
/// The outer source of packets to [`TUNNEL_V4_TARGET`], to be completed by flow.
pub const TUNNEL_V4_SOURCE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// The outer source of packets to [`TUNNEL_V6_TARGET`], to be completed by flow.
pub const TUNNEL_V6_SOURCE: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);
/// The address of the backend behind [`TUNNEL_V4_TARGET`].
pub const TUNNEL_V4_BACKEND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 105);
/// The address of the backend behind [`TUNNEL_V6_TARGET`].
pub const TUNNEL_V6_BACKEND: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x106);

/// A service whose packets reach their only backend through IPv4 in IPv4, on links with an MTU of 9000 bytes.
pub const JUMBO_TUNNEL: SocketAddr = SocketAddr::new(VIP, 21062);
/// The id of the target of [`JUMBO_TUNNEL`] in [`HostTables::fixture`].
pub const JUMBO_TUNNEL_TARGET: u16 = 7;

/// The id of the target in [`HostTables::fixture`] whose MAC address is not known.
pub const UNRESOLVED_TARGET: u16 = 4;
/// The id of the target of [`NAT`] in [`HostTables::fixture`].
pub const NAT_TARGET: u16 = 8;
/// The id of the target of [`NAT6`] in [`HostTables::fixture`].
pub const NAT6_TARGET: u16 = 9;
/// How many entries the table of targets has in [`HostTables::fixture`].
pub const TARGETS: u16 = 10;

/// Service, slot and target tables in memory.
#[derive(Clone, Debug, Default)]
pub struct HostTables {
    /// The services by key.
    pub services: BTreeMap<ServiceKey, Service>,
    /// From where restricted services may be used.
    pub allowed: BTreeSet<AllowedKey>,
    /// All slots, as the map holds them.
    pub slots: Vec<u64>,
    /// This host.
    pub node: Option<Node>,
    /// The targets by id.
    pub targets: Vec<Target>,
    /// The established records.
    pub flows: BTreeMap<FlowKey, FlowRecord>,
    /// The half-open records.
    pub half_open: BTreeMap<FlowKey, HalfOpen>,
    /// The ways back of established connections.
    pub returns: BTreeMap<ReturnKey, Return>,
    /// The ways back of half-open connections.
    pub half_open_returns: BTreeMap<ReturnKey, Return>,
    /// The notes of flows without a record.
    pub settled_flows: BTreeMap<FlowKey, SettledFlow>,
    /// Where clients of affine services are at home.
    pub affinity: BTreeMap<ClientKey, Affinity>,
    /// The live connections by target.
    pub live: BTreeMap<u16, Live>,
    /// The time, in ticks.
    pub now: u32,
    /// Whether records are running short.
    pub short: bool,
    /// How many established records there can be; `None`: as many as come.
    pub room: Option<usize>,
    /// What the controller was told, in this order, while it listened.
    pub news: Vec<News>,
    /// What decisions wanted remembered, and has not been carried out.
    notes: RefCell<Vec<Note>>,
    /// What was counted, by [`Counter`].
    counters: RefCell<BTreeMap<u32, u64>>,
    /// What was forwarded, by target id.
    traffic: RefCell<BTreeMap<u16, Traffic>>,
}

/// What is to be carried out.
#[derive(Clone, Debug)]
enum Note {
    Memory(Memory),
    Client(ClientKey, Affinity, bool),
    OpenWayBack(ReturnKey, Return),
    EstablishWayBack(ReturnKey, Return),
    TellWayBack(FlowKey),
    RemoveHalfOpenWayBack(ReturnKey),
}

impl HostTables {
    /// The tables that the shared cases expect: a VIP of each family, with the services named above.
    pub fn fixture() -> Self {
        let targets = (0..TARGETS).map(fixture_target).collect();
        let mut tables = Self {
            targets,
            node: Some(Node::new([BALANCER_MAC], true)),
            ..Self::default()
        };
        for vip in [VIP, VIP6] {
            let key = ServiceKey::vip(Address::from(vip));
            let service = Service {
                first_slot: 0,
                slots: 0,
                ..plain_service()
            };
            tables.services.insert(key, service);
        }
        for (one, three) in [(ONE, THREE), (ONE6, THREE6)] {
            tables.add_service(one, |_| 1);
            tables.add_service(three, |slot| slot % 3 + 1);
        }
        tables.add_service(NONE, |_| NO_TARGET);
        for refusing in [REFUSING, REFUSING6] {
            tables.add_service(refusing, |_| NO_TARGET).flags = flag::RESETS;
        }
        for (id, restricted, (address, length)) in [(1, RESTRICTED, ALLOWED), (2, RESTRICTED6, ALLOWED6)] {
            let service = tables.add_service(restricted, |_| 1);
            service.flags = flag::RESTRICTED;
            service.id = id;
            let before = if address.is_ipv4() { AllowedKey::V4_BITS } else { 0 };
            let key = AllowedKey::prefix(id, address.into(), before + length);
            tables.allowed.insert(key);
        }
        for (id, affine) in [(3, AFFINE), (4, AFFINE6)] {
            let service = tables.add_service(affine, |slot| slot % 3 + 1);
            service.flags = flag::AFFINE;
            service.id = id;
            service.port_mask = 0;
            service.affinity_timeout = AFFINITY_TIMEOUT;
        }
        tables.add_service(UNRESOLVED, |_| UNRESOLVED_TARGET);
        tables.add_service(DANGLING, |_| TARGETS);
        for service in [V4_IN_V4, V6_IN_V4] {
            tables.add_service(service, |_| TUNNEL_V4_TARGET);
        }
        for service in [V4_IN_V6, V6_IN_V6] {
            tables.add_service(service, |_| TUNNEL_V6_TARGET);
        }
        tables.add_service(JUMBO_TUNNEL, |_| JUMBO_TUNNEL_TARGET);
        for (id, (service, target)) in (5..).zip([(NAT, NAT_TARGET), (NAT6, NAT6_TARGET)]) {
            let service = tables.add_service(service, |_| target);
            service.flags = flag::TRANSLATES;
            service.id = id;
        }
        tables.exhaust(CLIENT_WITHOUT_PORT, NAT);
        tables.connect(NAT_CLIENT, NAT);
        tables.connect(NAT_CLIENT6, NAT6);
        tables.counters.take();
        tables.traffic.take();
        tables
    }

    /// The service at this address and port, which must be there.
    pub fn service(&self, address: SocketAddr) -> Service {
        self.services[&ServiceKey::tcp(address.ip().into(), address.port())]
    }

    /// What was counted under a counter.
    pub fn counted(&self, counter: Counter) -> u64 {
        self.counters
            .borrow()
            .get(&(counter as u32))
            .copied()
            .unwrap_or_default()
    }

    /// What was forwarded to a target.
    pub fn forwarded(&self, id: u16) -> Traffic {
        self.traffic.borrow().get(&id).copied().unwrap_or_default()
    }

    /// Carries out what decisions have wanted remembered.
    pub fn carry_out(&mut self) {
        for note in self.notes.take() {
            match note {
                Note::Memory(memory) => self.perform(&memory),
                Note::Client(client, affinity, moves) => {
                    self.affinity.insert(client, affinity);
                    if moves {
                        self.tell(News::of_client(&client));
                    }
                }
                Note::OpenWayBack(key, way_back) => {
                    self.half_open_returns.insert(key, way_back);
                }
                Note::EstablishWayBack(key, way_back) => {
                    self.returns.insert(key, way_back);
                }
                Note::TellWayBack(flow) => self.tell(News::of_flow(&flow)),
                Note::RemoveHalfOpenWayBack(key) => {
                    self.half_open_returns.remove(&key);
                }
            }
        }
    }

    /// Gives every port that is tried for a client to connections of others, so that it finds none.
    fn exhaust(&mut self, client: SocketAddr, service: SocketAddr) {
        let syn = Frame::new(client, service).flags(Flags::SYN).bytes();
        while let Action::Transmit { .. } = process(&mut syn.clone(), self) {
            self.carry_out();
            self.half_open.clear();
            for (key, way_back) in std::mem::take(&mut self.half_open_returns) {
                let client_port = way_back.client_port ^ 1;
                self.returns.insert(
                    key,
                    Return {
                        client_port,
                        ..way_back
                    },
                );
            }
        }
        self.carry_out();
    }

    /// Lets a client open a connection.
    fn connect(&mut self, client: SocketAddr, service: SocketAddr) {
        for (flags, sequence) in [(Flags::SYN, 1), (Flags::ACK, 2)] {
            let frame = Frame::new(client, service).flags(flags).sequence(sequence);
            process(&mut frame.bytes(), self);
            self.carry_out();
        }
    }

    /// Carries out what a decision wants remembered, as the XDP program does.
    pub fn perform(&mut self, memory: &Memory) {
        let Memory { flow, slot, effect } = *memory;
        match effect {
            Effect::Nothing => {}
            Effect::SettledUsed => self.settled_used(slot),
            Effect::Noted(note) => {
                self.settled_used(slot);
                self.settled_flows.insert(flow, note);
            }
            Effect::Seen | Effect::Closing | Effect::Reopened => {
                if let Some(record) = self.flows.get_mut(&flow) {
                    record.last_seen = self.now;
                    let before = *record;
                    match effect {
                        Effect::Closing => record.closing = slot_rule::closing_since(self.now),
                        Effect::Reopened => record.closing = 0,
                        _ => {}
                    }
                    let after = *record;
                    self.count_live(Some(before), Some(after));
                    if (before.closing == 0) != (after.closing == 0) {
                        self.tell(News::of_flow(&flow));
                    }
                }
            }
            Effect::Open(half_open) => {
                self.half_open.insert(flow, half_open);
                self.assign(half_open.target);
            }
            Effect::Establish(record) => {
                let fits = self.room.is_none_or(|room| self.flows.len() < room);
                if fits || self.flows.contains_key(&flow) {
                    let before = self.flows.insert(flow, record);
                    self.count_live(before, Some(record));
                    self.half_open.remove(&flow);
                    self.take_back(record.target);
                    self.tell(News::of_flow(&flow));
                }
            }
        }
    }

    /// Tells the controller, if it listens.
    fn tell(&mut self, news: News) {
        if self.node.is_some_and(|node| node.listens != 0) {
            self.news.push(news);
        }
    }

    /// Counts that a record has become another, as the XDP program and the controller do.
    pub fn count_live(&mut self, before: Option<FlowRecord>, after: Option<FlowRecord>) {
        let target = |record: Option<FlowRecord>| record.filter(|it| it.closing == 0).map(|it| it.target);
        if let Some(target) = target(before) {
            let live = self.live.entry(target).or_default();
            live.established = live.established.wrapping_sub(1);
        }
        if let Some(target) = target(after) {
            let live = self.live.entry(target).or_default();
            live.established = live.established.wrapping_add(1);
        }
    }

    /// Counts a SYN that was given to a target.
    fn assign(&mut self, target: u16) {
        let assigned = &mut self.live.entry(target).or_default().assigned;
        if !live::is_of_tick(*assigned, self.now) {
            *assigned = live::first_assigned(self.now);
        } else if live::has_room(*assigned) {
            *assigned += 1;
        }
    }

    /// Counts that a connection to a target has become established.
    fn take_back(&mut self, target: u16) {
        let assigned = &mut self.live.entry(target).or_default().assigned;
        if live::can_take_back(*assigned, self.now) {
            *assigned -= 1;
        }
    }

    /// Notes the time at which a slot's settled path was used.
    fn settled_used(&mut self, slot: u32) {
        if let Some(word) = self.slots.get_mut(slot as usize) {
            let [low, high, ..] = self.now.to_le_bytes();
            let settled_seen = u16::from_le_bytes([low, high]);
            *word = Slot {
                settled_seen,
                ..Slot::from_bits(*word)
            }
            .to_bits();
        }
    }

    fn add_service(&mut self, address: SocketAddr, target_of: impl Fn(u16) -> u16) -> &mut Service {
        let first_slot = u32::try_from(self.slots.len()).expect("a few slots");
        let slots = u16::try_from(SLOTS).expect("a few slots");
        self.slots
            .extend((0..slots).map(|slot| Slot::untracked(target_of(slot)).to_bits()));
        let key = ServiceKey::tcp(Address::from(address.ip()), address.port());
        self.services.entry(key).or_insert(Service {
            first_slot,
            slots: SLOTS,
            ..plain_service()
        })
    }
}

/// A service without anything special, and without slots.
const fn plain_service() -> Service {
    Service {
        hash_seed: SEED,
        first_slot: 0,
        slots: 0,
        flags: 0,
        id: 0,
        port_mask: u16::MAX,
        affinity_timeout: 0,
        candidates: 0,
        reserved: 0,
    }
}

fn fixture_target(id: u16) -> Target {
    let [high, low] = id.to_be_bytes();
    let backend = Address::v4([192, 0, 2, 100 + low]);
    let hop = next_hop([0x02, 0, 0, 1, high, low]);
    let tunnel_over = |mtu, backend: IpAddr, source: IpAddr| {
        let source = source.into();
        let hop = NextHop { mtu, ..hop };
        Target::new(backend.into(), Forwarding::Ipip { source }, Some(hop))
    };
    let tunnel = |backend, source| tunnel_over(hop.mtu, backend, source);
    match id {
        NO_TARGET => Target::NONE,
        UNRESOLVED_TARGET => Target::new(backend, Forwarding::Dsr, None),
        TUNNEL_V4_TARGET => tunnel(TUNNEL_V4_BACKEND.into(), TUNNEL_V4_SOURCE.into()),
        TUNNEL_V6_TARGET => tunnel(TUNNEL_V6_BACKEND.into(), TUNNEL_V6_SOURCE.into()),
        JUMBO_TUNNEL_TARGET => tunnel_over(9000, TUNNEL_V4_BACKEND.into(), TUNNEL_V4_SOURCE.into()),
        NAT_TARGET => nat_target(NAT_BACKEND, NAT_MAC),
        NAT6_TARGET => nat_target(NAT_BACKEND6, NAT_MAC6),
        _ => Target::new(backend, Forwarding::Dsr, Some(hop)),
    }
}

/// A target that translates.
pub fn nat_target(backend: SocketAddr, mac: [u8; 6]) -> Target {
    let forwarding = Forwarding::Nat { port: backend.port() };
    Target::new(backend.ip().into(), forwarding, Some(next_hop(mac)))
}

/// A `dsr` target of which nothing matters but that its MAC address is known.
pub fn resolved_target() -> Target {
    Target::new(Address::UNSPECIFIED, Forwarding::Dsr, Some(next_hop([2; 6])))
}

/// A next hop on the balancer's only interface.
pub const fn next_hop(mac: [u8; 6]) -> NextHop {
    NextHop {
        mac,
        source: BALANCER_MAC,
        egress: 0,
        mtu: 1500,
    }
}

impl Tables for HostTables {
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(index as usize).copied().map(Slot::from_bits)
    }

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn target(&self, id: u16) -> Option<&Target> {
        self.targets.get(usize::from(id))
    }

    fn live(&self, id: u16) -> Live {
        self.live.get(&id).copied().unwrap_or_default()
    }

    fn allows(&self, service: u16, client: Address) -> bool {
        let client = AllowedKey::client(service, client);
        self.allowed.iter().any(|prefix| prefix.covers(&client))
    }

    fn remember(&self, memory: &Memory) {
        self.note(Note::Memory(*memory));
    }

    fn note_client(&self, client: &ClientKey, affinity: &Affinity, moves: bool) {
        self.note(Note::Client(*client, *affinity, moves));
    }
}

impl HostTables {
    fn note(&self, note: Note) {
        self.notes.borrow_mut().push(note);
    }

    fn note_flow(&self, flow: &FlowKey, effect: Effect) {
        self.note(Note::Memory(Memory {
            flow: *flow,
            slot: 0,
            effect,
        }));
    }
}

impl WaysBack for HostTables {
    fn flow_seen(&self, flow: &FlowKey, how: Use) {
        let effect = match how {
            Use::Seen => Effect::Seen,
            Use::Closing => Effect::Closing,
            Use::Reopened => Effect::Reopened,
        };
        self.note_flow(flow, effect);
    }

    fn open_flow(&self, flow: &FlowKey, half_open: &HalfOpen) {
        self.note_flow(flow, Effect::Open(*half_open));
    }

    fn establish_flow(&self, flow: &FlowKey, record: &FlowRecord) -> bool {
        self.note_flow(flow, Effect::Establish(*record));
        true
    }

    fn way_back(&self, key: &ReturnKey) -> Option<&Return> {
        self.returns.get(key)
    }

    fn half_open_way_back(&self, key: &ReturnKey) -> Option<&Return> {
        self.half_open_returns.get(key)
    }

    fn open_way_back(&self, key: &ReturnKey, way_back: &Return, _replaces: bool) -> bool {
        self.note(Note::OpenWayBack(*key, *way_back));
        true
    }

    fn establish_way_back(&self, key: &ReturnKey, way_back: &Return, _replaces: bool) -> bool {
        self.note(Note::EstablishWayBack(*key, *way_back));
        true
    }

    fn tell_way_back(&self, flow: &FlowKey) {
        self.note(Note::TellWayBack(*flow));
    }

    fn remove_half_open_way_back(&self, key: &ReturnKey) {
        self.note(Note::RemoveHalfOpenWayBack(*key));
    }
}

impl Engine for HostTables {
    type Frame = Vec<u8>;

    fn count(&self, counter: Counter) {
        *self.counters.borrow_mut().entry(counter as u32).or_default() += 1;
    }

    fn count_forwarded(&self, id: u16, bytes: usize, new_flow: bool) {
        let mut traffic = self.traffic.borrow_mut();
        let sum = traffic.entry(id).or_default();
        *sum = sum.plus(Traffic {
            packets: 1,
            bytes: bytes as u64,
            new_flows: u64::from(new_flow),
        });
    }
}

impl Records for HostTables {
    fn flow(&self, key: &FlowKey) -> Option<&FlowRecord> {
        self.flows.get(key)
    }

    fn half_open(&self, key: &FlowKey) -> Option<&HalfOpen> {
        self.half_open.get(key)
    }

    fn settled_flow(&self, key: &FlowKey) -> Option<&SettledFlow> {
        self.settled_flows.get(key)
    }

    fn affinity(&self, key: &ClientKey) -> Option<&Affinity> {
        self.affinity.get(key)
    }

    fn now(&self) -> u32 {
        self.now
    }

    fn is_short(&self) -> bool {
        self.short
    }

    fn is_alive(&self, target: u16) -> bool {
        self.target(target).is_some_and(Target::is_alive)
    }

    fn takes_new_flows(&self, target: u16) -> bool {
        self.target(target).is_some_and(Target::takes_new_flows)
    }
}
