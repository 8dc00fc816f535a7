//! The maps of the balancer, and the tables that a decision sees in them.
//!
//! Sizes given here are those of the default configuration; the controller sets the real ones when it loads the program.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST, xdp_md},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::map,
    maps::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray},
    programs::XdpContext,
};
use lb_common::{
    address::Address,
    clock,
    counter::Counter,
    decision::{self, Memory, Tables},
    layout::{
        AFFINITY_ROOM, ALLOWED_ROOM, Affinity, ClientKey, FlowKey, FlowRecord, HalfOpen, Live,
        MAX_INTERFACES, Node, Return, ReturnKey, Service, ServiceKey, SettledFlow, Slot, Target, Traffic,
        live,
    },
    least_connections,
    process::{Action, Engine},
    slot_rule::{self, Effect, Event, Records, Use},
    translation::{self, Passage, WaysBack},
};

use crate::{atomic, frame::Frame, news, rare};

// The names are those of `lb_common::layout::map`.

/// Services by address, port and protocol; and the VIPs alone.
#[map]
static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(128, BPF_F_NO_PREALLOC);

/// Slots of all services. The controller maps it into its memory and stores whole words.
#[map]
static SLOTS: Array<u64> = Array::with_max_entries(64 * 65_537, BPF_F_MMAPABLE);

/// Established records. Allocated in advance, and never evicted: only the controller removes what is over.
#[map]
static FLOWS: HashMap<FlowKey, FlowRecord> = HashMap::with_max_entries(262_144, 0);

/// Half-open records. A flood of SYNs evicts the oldest of them, and nothing else.
#[map]
static HALF_OPEN: LruHashMap<FlowKey, HalfOpen> = LruHashMap::with_max_entries(65_536, 0);

/// Notes of flows without a record, for operators. Where there are too many, those seen longest ago are forgotten.
#[map]
static SETTLED_FLOWS: LruHashMap<FlowKey, SettledFlow> = LruHashMap::with_max_entries(65_536, 0);

/// Where clients of affine services are at home whose slot is tracked. Where there are too many, those seen longest ago are forgotten.
#[map]
static AFFINITY: LruHashMap<ClientKey, Affinity> = LruHashMap::with_max_entries(AFFINITY_ROOM, 0);

/// The way back of translated connections that are established. Allocated as they come: most hosts have none.
#[map]
static RETURNS: HashMap<ReturnKey, Return> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// The way back of translated connections that are half open.
#[map]
static HALF_OPEN_RETURNS: LruHashMap<ReturnKey, Return> = LruHashMap::with_max_entries(65_536, 0);

/// From where restricted services may be used. Allocated as it comes: most services are not restricted.
#[map]
pub(crate) static ALLOWED: LpmTrie<[u32; 5], u32> =
    LpmTrie::with_max_entries(ALLOWED_ROOM, BPF_F_NO_PREALLOC);

/// What is known of this host.
#[map]
static NODE: Array<Node> = Array::with_max_entries(1, 0);

/// Our interfaces by index, for packets that leave on another one than they came in on.
#[map]
#[expect(clippy::cast_possible_truncation, reason = "a handful")]
static DEVICES: DevMapHash = DevMapHash::with_max_entries(MAX_INTERFACES as u32, 0);

/// What the clock showed last, in ticks, in the upper half of the word; at which jiffy that was in the lower half. The clock
/// itself is read once a jiffy: two calls of functions, each of which ends with a return that is slow where the kernel guards
/// returns against speculation.
#[map]
static CLOCK: Array<u64> = Array::with_max_entries(1, 0);

/// Whether established records are running short: the controller's word.
#[map]
static RECORDS_SHORT: Array<u32> = Array::with_max_entries(1, 0);

/// Targets by id.
#[map]
static TARGETS: Array<Target> = Array::with_max_entries(1025, 0);

/// The live connections by target id. Memory-mapped, so that the controller can count in it as the program does: atomically.
#[map]
static LIVE: Array<Live> = Array::with_max_entries(1025, BPF_F_MMAPABLE);

/// Forwarded traffic by target id.
#[map]
static TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(1025, 0);

/// Exceptional packets by [`Counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// The maps, as the tables of a decision.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        // SAFETY: entries are integers, of which any bits are valid. The kernel replaces an entry as a whole; the memory of
        // the old one may be reused while a packet still reads it, which then is treated as the service that was written
        // there: one packet, when an operator changes services.
        unsafe { SERVICES.get(key) }
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        SLOTS.get(index).map(|bits| {
            // SAFETY: the reference is valid for reads and aligned. The load is volatile, thus one 8-byte instruction,
            // because the controller stores into the same word at any time.
            Slot::from_bits(unsafe { core::ptr::read_volatile(bits) })
        })
    }

    #[inline(always)]
    fn node(&self) -> Option<&Node> {
        NODE.get(0)
    }

    #[inline(always)]
    fn target(&self, id: u16) -> Option<&Target> {
        // The kernel copies a new entry over the old one. A packet that reads in between gets a mixture of two MAC addresses
        // and is lost, as it was with the old one.
        TARGETS.get(u32::from(id))
    }

    #[inline(always)]
    fn live(&self, id: u16) -> Live {
        LIVE.get_ptr(u32::from(id)).map_or_else(Live::default, |live| {
            // SAFETY: the pointer is into the map's memory and aligned. Volatile: other CPUs write.
            unsafe { live.read_volatile() }
        })
    }

    #[inline(always)]
    fn least(&self, index: u32, service: &Service) -> u16 {
        least(index, service)
    }

    #[inline(always)]
    fn allows(&self, service: u16, client: Address) -> bool {
        rare::is_allowed(&client, service)
    }

    #[inline(always)]
    fn tracked_target(&self, event: Event, slot: Slot, flow: &FlowKey, index: u32, service: &Service) -> u16 {
        tracked_target(flow, slot.to_bits(), pack(event), index, service)
    }

    #[inline(always)]
    fn note_client(&self, client: &ClientKey, affinity: &Affinity, moves: bool) {
        // Where it fails the client may be sent elsewhere once its slot has moved.
        let _ = AFFINITY.insert(client, affinity, u64::from(BPF_ANY));
        if moves {
            news::tell_client(client);
        }
    }

    #[inline(always)]
    fn remember(&self, memory: &Memory) {
        let Memory { flow, slot, effect } = memory;
        match effect {
            Effect::Nothing => {}
            Effect::SettledUsed => settled_used(*slot),
            Effect::Noted(note) => {
                settled_used(*slot);
                // Where it fails there is one flow less to see.
                let _ = SETTLED_FLOWS.insert(flow, note, u64::from(BPF_ANY));
            }
            Effect::Seen => self.flow_seen(flow, Use::Seen),
            Effect::Closing => self.flow_seen(flow, Use::Closing),
            Effect::Reopened => self.flow_seen(flow, Use::Reopened),
            Effect::Open(half_open) => self.open_flow(flow, half_open),
            Effect::Establish(record) => {
                if !self.establish_flow(flow, record) {
                    // The half-open record stays: it serves the connection while it is in its first window.
                    self.count(Counter::RecordLost);
                }
            }
        }
    }
}

impl Records for Maps {
    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<&FlowRecord> {
        // SAFETY: as in `service`: any bits are a valid record, and the memory stays a record's as long as the map. Another CPU may
        // write to it meanwhile, whole fields only. One that is deleted or replaced meanwhile may at once become another flow's: it was
        // over, and the packet, one that comes in that very moment, is treated as one of that flow.
        unsafe { FLOWS.get(key) }
    }

    #[inline(always)]
    fn half_open(&self, key: &FlowKey) -> Option<&HalfOpen> {
        // SAFETY: as above.
        unsafe { HALF_OPEN.get(key) }
    }

    #[inline(always)]
    fn settled_flow(&self, key: &FlowKey) -> Option<&SettledFlow> {
        // SAFETY: as above.
        unsafe { SETTLED_FLOWS.get(key) }
    }

    #[inline(always)]
    fn affinity(&self, key: &ClientKey) -> Option<&Affinity> {
        // SAFETY: as above.
        unsafe { AFFINITY.get(key) }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the word holds two halves")]
    fn now(&self) -> u32 {
        CLOCK.get_ptr_mut(0).map_or_else(read_clock, |word| {
            // SAFETY: a helper without arguments, which the verifier replaces by a load.
            let jiffies = unsafe { bpf_jiffies64() } as u32;
            // SAFETY: the pointer is into the map's memory and aligned. Volatile, thus one 8-byte load: other CPUs store.
            let known = unsafe { word.read_volatile() };
            if known as u32 == jiffies {
                return (known >> 32) as u32;
            }
            let now = read_clock();
            // SAFETY: as above.
            unsafe { word.write_volatile(u64::from(now) << 32 | u64::from(jiffies)) };
            now
        })
    }

    #[inline(always)]
    fn is_short(&self) -> bool {
        RECORDS_SHORT.get(0).is_some_and(|short| *short != 0)
    }

    #[inline(always)]
    fn is_alive(&self, target: u16) -> bool {
        TARGETS.get(u32::from(target)).is_some_and(Target::is_alive)
    }

    #[inline(always)]
    fn takes_new_flows(&self, target: u16) -> bool {
        TARGETS
            .get(u32::from(target))
            .is_some_and(Target::takes_new_flows)
    }
}

/// The way of a client's packet to a service that translates, in a function of its own: inlined it would take registers and
/// stack from services that do not.
#[inline(never)]
fn translate(context: *mut xdp_md, service: &Service, passage: u64, bytes: usize) -> u64 {
    let mut frame = Frame::of(&XdpContext::new(context));
    match translation::translate(&mut frame, service, Passage::from_bits(passage), bytes, &Maps) {
        Some(action) => action.to_bits(),
        None => ADMIT,
    }
}

/// What [`translate`] returns for a packet that has to be admitted first: no [`Action`].
const ADMIT: u64 = u64::MAX;

/// What is remembered of connections that are translated, in a function of its own because most packets leave nothing to remember.
#[inline(never)]
fn admit(context: *mut xdp_md, service: &Service) -> u64 {
    translation::admit(&Frame::of(&XdpContext::new(context)), service, &Maps).to_bits()
}

/// The records of a connection that is established.
#[inline(never)]
fn establish(context: *mut xdp_md, service: &Service) -> u64 {
    translation::establish(&Frame::of(&XdpContext::new(context)), service, &Maps).to_bits()
}

/// The established record of a connection that is established.
#[inline(never)]
fn record(context: *mut xdp_md, service: &Service, passage: u64) -> u64 {
    let frame = Frame::of(&XdpContext::new(context));
    translation::record(&frame, service, Passage::from_bits(passage), &Maps);
    0
}

/// The target for a new connection by live ones.
#[inline(never)]
fn place(context: *mut xdp_md, service: &Service) -> u16 {
    translation::place(&Frame::of(&XdpContext::new(context)), service, &Maps)
}

/// The search for a port for a new connection.
#[inline(never)]
fn open(context: *mut xdp_md, service: &Service, placed: u16) -> u64 {
    translation::open(&Frame::of(&XdpContext::new(context)), service, placed, &Maps).to_bits()
}

/// The way of a backend's answer.
#[inline(never)]
fn translate_to_client(context: *mut xdp_md) -> u64 {
    let mut frame = Frame::of(&XdpContext::new(context));
    translation::to_client(&mut frame, &Maps).to_bits()
}

/// The time by the kernel's clock, in ticks.
#[inline(always)]
fn read_clock() -> u32 {
    // SAFETY: a helper without arguments, which every program type may call since Linux 5.11.
    clock::ticks(unsafe { bpf_ktime_get_coarse_ns() })
}

/// The decision for tracked slots, in a function of its own: inlined it would take registers and stack from the packets
/// of untracked slots, which are nearly all. The arguments are words because that is what BPF functions take.
#[inline(never)]
fn tracked_target(flow: &FlowKey, slot: u64, event: u64, index: u32, service: &Service) -> u16 {
    decision::tracked_target(unpack(event), Slot::from_bits(slot), flow, index, service, &Maps)
}

/// The choice among a service's targets, in a function of its own: it is long, and only SYNs of few services need it.
#[inline(never)]
fn least(index: u32, service: &Service) -> u16 {
    least_connections::least(index, service, &Maps)
}

/// Says of an established record when its flow began to close, or by 0 that it goes on, and counts live connections accordingly.
///
/// In one exchange with the target, so that exactly one CPU counts a change. Where another has been faster, its word stands. Returns
/// whether it is a change.
///
/// The record may have been deleted or replaced since it was looked up, and the kernel gives its place to another flow at once. Then that
/// one is marked and counted, as if the packet were its own: a forged FIN does no more, since a connection that goes on is
/// reopened. In a place that nobody has yet, it counts an end twice: the controller's passes find and correct such counts.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the target is the word's lower half"
)]
fn mark_closing(record: *mut FlowRecord, mark: u16) -> bool {
    // `target` is the lower half of the record's first word, `closing` the upper one, on a little-endian machine.
    let word = record.cast::<u32>();
    // SAFETY: the pointer is into the map's memory, which is allocated in advance and stays a record's as long as the map, and aligned.
    let before = unsafe { word.read_volatile() };
    let (target, was_closing) = (before as u16, before >> 16 != 0);
    let after = u32::from(target) | u32::from(mark) << 16;
    // SAFETY: as above.
    if !unsafe { atomic::replace(word, before, after) } {
        return false;
    }
    match (was_closing, mark != 0) {
        (false, true) => count_live(target, 1u32.wrapping_neg()),
        (true, false) => count_live(target, 1),
        _ => return false,
    }
    true
}

/// Adds to the live connections of a target.
#[inline(always)]
fn count_live(target: u16, amount: u32) {
    if let Some(live) = LIVE.get_ptr_mut(u32::from(target)) {
        // SAFETY: `established` is the first field of an entry, inside of the map's memory and aligned.
        unsafe { atomic::add(live.cast(), amount) };
    }
}

/// Counts a SYN that was given to a target.
#[inline(always)]
fn assign(target: u16, now: u32) {
    let Some(live) = LIVE.get_ptr_mut(u32::from(target)) else {
        return;
    };
    // SAFETY: the pointer is into the map's memory. No reference is made, since others write to the entry.
    let assigned = unsafe { &raw mut (*live).assigned };
    // SAFETY: the field is aligned; volatile, since other CPUs write.
    let before = unsafe { assigned.read_volatile() };
    if !live::is_of_tick(before, now) {
        // SAFETY: as above.
        if unsafe { atomic::replace(assigned, before, live::first_assigned(now)) } {
            return;
        }
        // Another CPU has counted the first one meanwhile.
    } else if !live::has_room(before) {
        return;
    }
    // SAFETY: as above.
    unsafe { atomic::add(assigned, 1) };
}

/// Counts that a connection to a target has become established.
#[inline(always)]
fn take_back(target: u16, now: u32) {
    let Some(live) = LIVE.get_ptr_mut(u32::from(target)) else {
        return;
    };
    // SAFETY: as in `assign`.
    let assigned = unsafe { &raw mut (*live).assigned };
    // SAFETY: as in `assign`.
    let before = unsafe { assigned.read_volatile() };
    if live::can_take_back(before, now) {
        // Two CPUs may take back the same one. Then it counts for no tick, until the next SYN.
        // SAFETY: as in `assign`.
        unsafe { atomic::add(assigned, 1u32.wrapping_neg()) };
    }
}

/// An event in one word: the sequence number, then a bit each.
#[inline(always)]
const fn pack(event: Event) -> u64 {
    event.sequence as u64 | (event.opens as u64) << 32 | (event.closes as u64) << 33
}

/// The inverse of [`pack`].
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the number is the word's lower half"
)]
const fn unpack(word: u64) -> Event {
    Event {
        opens: word >> 32 & 1 != 0,
        closes: word >> 33 & 1 != 0,
        sequence: word as u32,
    }
}

/// Notes the time at which a slot's settled path was used.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the slot keeps the time modulo 2^16"
)]
fn settled_used(slot: u32) {
    if let Some(word) = SLOTS.get_ptr_mut(slot) {
        // `settled_seen` is the highest 16 bits of the word, on a little-endian machine its last two bytes.
        let settled_seen = word.cast::<u16>().wrapping_add(3);
        let now = Maps.now() as u16;
        // SAFETY: the two bytes are inside of the word, which is the map's memory, and aligned.
        let before = unsafe { settled_seen.read_volatile() };
        // Written once a tick, the slot's cache line stays shared.
        if before != now {
            // SAFETY: as above. Only these two bytes are stored, so that a move which the controller stores at the same time
            // is not undone.
            unsafe { settled_seen.write_volatile(now) };
        }
    }
}

impl WaysBack for Maps {
    #[inline(always)]
    fn flow_seen(&self, flow: &FlowKey, how: Use) {
        let Some(record) = FLOWS.get_ptr_mut(flow) else {
            return;
        };
        let now = self.now();
        // SAFETY: the pointer is into the map's memory, which stays mapped while the program runs. No reference is made, since
        // others look at the record.
        let last_seen = unsafe { &raw mut (*record).last_seen };
        // SAFETY: the field is a record's as long as the map, whose memory is allocated in advance. It is written whole, and that another
        // CPU writes to it at the same time does no harm. Nor does it if the record has been deleted meanwhile and its place is
        // another flow's: that one then is over a little later.
        unsafe { last_seen.write_volatile(now) };
        let mark = match how {
            Use::Seen => return,
            Use::Closing => slot_rule::closing_since(now),
            Use::Reopened => 0,
        };
        if mark_closing(record, mark) {
            news::tell_flow(flow);
        }
    }

    #[inline(always)]
    fn open_flow(&self, flow: &FlowKey, half_open: &HalfOpen) {
        // Where it fails the SYN was forwarded all the same, and so will be the client's next one.
        let _ = HALF_OPEN.insert(flow, half_open, u64::from(BPF_ANY));
        assign(half_open.target, self.now());
    }

    #[inline(always)]
    fn establish_flow(&self, flow: &FlowKey, record: &FlowRecord) -> bool {
        if FLOWS.insert(flow, record, u64::from(BPF_NOEXIST)).is_err() {
            // What gives way is no longer counted: it closes, if only for this moment.
            if let Some(earlier) = FLOWS.get_ptr_mut(flow) {
                mark_closing(earlier, slot_rule::closing_since(self.now()));
            }
            if FLOWS.insert(flow, record, u64::from(BPF_ANY)).is_err() {
                return false;
            }
        }
        if record.closing == 0 {
            count_live(record.target, 1);
        }
        take_back(record.target, self.now());
        let _ = HALF_OPEN.remove(flow);
        // Last: whoever is told looks the record up, and its way back, which has been there before it.
        news::tell_flow(flow);
        true
    }

    #[inline(always)]
    fn way_back(&self, key: &ReturnKey) -> Option<&Return> {
        // SAFETY: as in `service`: any bits are a valid way back. The kernel replaces an entry as a whole, but may use the memory of
        // the old one for another at once, though for nothing else while a packet reads it. Only what no record names is deleted, and
        // only what the same client's packets replace. So an answer that is read a way back to somebody else belongs to a connection
        // that is over, or to one whose client has just changed its router; that one is sent again.
        unsafe { RETURNS.get(key) }
    }

    #[inline(always)]
    fn half_open_way_back(&self, key: &ReturnKey) -> Option<&Return> {
        // SAFETY: any bits are a valid way back. An entry that is evicted while it is read may turn into another's: one answer
        // to a SYN, in a flood of them.
        unsafe { HALF_OPEN_RETURNS.get(key) }
    }

    #[inline(always)]
    fn open_way_back(&self, key: &ReturnKey, way_back: &Return, replaces: bool) -> bool {
        let flags = if replaces { BPF_ANY } else { BPF_NOEXIST };
        HALF_OPEN_RETURNS.insert(key, way_back, u64::from(flags)).is_ok()
    }

    #[inline(always)]
    fn establish_way_back(&self, key: &ReturnKey, way_back: &Return, replaces: bool) -> bool {
        let flags = if replaces { BPF_ANY } else { BPF_NOEXIST };
        RETURNS.insert(key, way_back, u64::from(flags)).is_ok()
    }

    #[inline(always)]
    fn tell_way_back(&self, flow: &FlowKey) {
        news::tell_flow(flow);
    }

    #[inline(always)]
    fn remove_half_open_way_back(&self, key: &ReturnKey) {
        // It may be gone already.
        let _ = HALF_OPEN_RETURNS.remove(key);
    }
}

impl Engine for Maps {
    type Frame = Frame;

    #[inline(always)]
    fn reset(&self, packet: &mut Frame) -> Option<()> {
        rare::reset(packet.context()).then_some(())
    }

    #[inline(always)]
    fn packet_too_big(&self, packet: &mut Frame, limit: u16) -> Option<()> {
        rare::packet_too_big(packet.context(), limit).then_some(())
    }

    #[inline(always)]
    fn forward_icmp_error(&self, packet: &mut Frame) -> Action {
        Action::from_bits(rare::forward_icmp_error(packet.context()))
    }

    #[inline(always)]
    fn translate_icmp_error(&self, packet: &mut Frame) -> Action {
        Action::from_bits(rare::translate_icmp_error(packet.context()))
    }

    #[inline(always)]
    fn translate(
        &self,
        packet: &mut Frame,
        service: &Service,
        passage: Passage,
        bytes: usize,
    ) -> Option<Action> {
        match translate(packet.context(), service, passage.to_bits(), bytes) {
            ADMIT => None,
            action => Some(Action::from_bits(action)),
        }
    }

    #[inline(always)]
    fn admit(&self, packet: &Frame, service: &Service) -> Passage {
        Passage::from_bits(admit(packet.context(), service))
    }

    #[inline(always)]
    fn establish(&self, packet: &Frame, service: &Service) -> Passage {
        Passage::from_bits(establish(packet.context(), service))
    }

    #[inline(always)]
    fn place(&self, packet: &Frame, service: &Service) -> u16 {
        place(packet.context(), service)
    }

    #[inline(always)]
    fn record(&self, packet: &Frame, service: &Service, passage: Passage) {
        record(packet.context(), service, passage.to_bits());
    }

    #[inline(always)]
    fn open(&self, packet: &Frame, service: &Service, placed: u16) -> Passage {
        Passage::from_bits(open(packet.context(), service, placed))
    }

    #[inline(always)]
    fn translate_to_client(&self, packet: &mut Frame) -> Action {
        Action::from_bits(translate_to_client(packet.context()))
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: the pointer is into this CPU's own copy of the value, aligned and valid. XDP programs run in softirqs,
            // which do not interrupt each other; where a kernel lets them (PREEMPT_RT), an increment of a statistic may be lost.
            unsafe { *value += 1 };
        }
    }

    #[inline(always)]
    fn count_forwarded(&self, id: u16, bytes: usize, new_flow: bool) {
        if let Some(traffic) = TRAFFIC.get_ptr_mut(u32::from(id)) {
            // SAFETY: as in `count`; nobody else holds a reference to this CPU's copy while the program runs.
            let traffic = unsafe { &mut *traffic };
            traffic.packets += 1;
            traffic.bytes += bytes as u64;
            traffic.new_flows += u64::from(new_flow);
        }
    }
}

/// Sends a frame out of the interface with this index. Drops it, under the kernel's own count of XDP exceptions, if that is
/// none of ours.
#[inline(always)]
pub fn redirect(egress: u32) -> u32 {
    match DEVICES.redirect(egress, 0) {
        Ok(action) | Err(action) => action,
    }
}
