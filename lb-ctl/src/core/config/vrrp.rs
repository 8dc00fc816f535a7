//! `[[vrrp]]`: the addresses that are shared with other balancers.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::ops::RangeInclusive;
use std::time::Duration;

use lb_common::layout::MAX_INTERFACES;
use toml::de::DeValue;

use super::assemble::value_or;
use super::choice::VrrpChecksum;
use super::command::command;
use super::document::{Datapath, Document};
use super::duration::ConfigDuration;
use super::error::{ConfigError, Origin};
use super::model::ProgramPlace;
use super::reader::{At, TableReader};
use super::track::TrackKeys;
use super::value::{self, found};
use crate::core::command::Command;
use crate::core::interface::Mac;
use crate::core::vrrp::{
    Audience, ChecksumForm, HOP_LIMIT, Hook, Interval, Kind, Policy, Settings, Track, virtual_mac,
};

const DELAYS: RangeInclusive<ConfigDuration> =
    ConfigDuration::from_millis(0)..=ConfigDuration::from_millis(3_600_000);
const INTERVALS: RangeInclusive<ConfigDuration> =
    ConfigDuration::from_millis(10)..=ConfigDuration::from_millis(40_950);
const NOTIFY_TIMEOUTS: RangeInclusive<ConfigDuration> =
    ConfigDuration::from_millis(100)..=ConfigDuration::from_millis(60_000);

/// As many addresses as fit into a packet of 576 bytes over IPv6, which no link refuses.
const MOST_ADDRESSES: usize = 32;
const MOST_PEERS: usize = 16;

const PRIORITY: NonZeroU8 = NonZeroU8::MIN.saturating_add(99);
/// A balancer that dies is missed within a second.
const ADVERT_INTERVAL: Duration = Duration::from_millis(250);
/// One that has just started checks its backends first.
const PREEMPT_DELAY: Duration = Duration::from_secs(10);
/// Whoever is told of a change.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a master tells the neighbours anew whose the addresses are.
const REFRESH: Duration = Duration::from_mins(1);

/// A virtual router: addresses that one of several balancers holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vrrp {
    /// Its name, unique among them.
    pub name: String,
    /// The interface on which it advertises and holds its addresses; one of the data path's.
    pub interface: String,
    /// The virtual router's number, unique on the interface for each family.
    pub vrid: NonZeroU8,
    /// Its addresses, all of one family; at least one.
    pub addresses: Vec<IpAddr>,
    /// The address that its packets come from; `None` if any of its own will do.
    pub source: Option<IpAddr>,
    /// Who is talked to.
    pub audience: Audience,
    /// The checksum over IPv4.
    pub checksum: ChecksumForm,
    /// Priority and interval.
    pub settings: Settings,
    /// How it behaves; alike for all of a group.
    pub policy: Policy,
    /// The name of the group with which it moves.
    pub group: Option<String>,
    /// What it depends on.
    pub track: Vec<Track>,
    /// The program that is told of its changes.
    pub notify: Option<Hook>,
    /// Whether its addresses have a MAC address that moves with them.
    pub has_virtual_mac: bool,
}

impl Vrrp {
    /// Whether its addresses are of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.addresses.first().is_some_and(IpAddr::is_ipv4)
    }

    /// The MAC address that moves with its addresses, if one does.
    pub fn virtual_mac(&self) -> Option<Mac> {
        self.has_virtual_mac
            .then(|| virtual_mac(self.vrid, self.is_ipv4()))
    }
}

/// The table as written.
#[derive(Debug)]
pub(super) struct VrrpKeys {
    origin: Origin,
    name: Option<At<String>>,
    interface: Option<At<String>>,
    vrid: Option<At<NonZeroU8>>,
    priority: Option<At<NonZeroU8>>,
    advert_interval: Option<At<Interval>>,
    addresses: Vec<At<IpAddr>>,
    source: Option<At<IpAddr>>,
    preempt: Option<At<bool>>,
    preempt_delay: Option<At<Duration>>,
    start_delay: Option<At<Duration>>,
    unicast_peers: Vec<At<IpAddr>>,
    unicast_hop_limit: Option<At<u8>>,
    checksum: Option<At<VrrpChecksum>>,
    group: Option<At<String>>,
    track: Vec<TrackKeys>,
    notify: Option<At<Command>>,
    notify_timeout: Option<At<Duration>>,
    virtual_mac: Option<At<bool>>,
}

impl VrrpKeys {
    pub(super) fn read(table: &mut TableReader<'_, '_>) -> Self {
        let delay =
            |value: &DeValue<'_>, default: &str| value::duration(value, DELAYS, default).map(Duration::from);
        Self {
            origin: table.origin().clone(),
            name: table.required("name", r#""impala""#, value::name),
            interface: table.optional("interface", value::interface),
            vrid: table.required("vrid", "51", |value| {
                number(value, "write the same on all balancers")
            }),
            priority: table.optional("priority", |value| {
                number(value, "leave the key out to get 100; the highest is master")
            }),
            advert_interval: table.optional("advert_interval", interval),
            addresses: table.required_list("addresses", r#"["192.0.2.10"]"#, value::own_address),
            source: table.optional("source", value::own_address),
            preempt: table.optional("preempt", value::boolean),
            preempt_delay: table.optional("preempt_delay", |value| {
                delay(value, "leave the key out to get \"10s\"")
            }),
            start_delay: table.optional("start_delay", |value| {
                delay(value, "leave the key out to get \"0s\"")
            }),
            unicast_peers: table.optional_list(
                "unicast_peers",
                "leave the key out to talk to the multicast group",
                value::address,
            ),
            unicast_hop_limit: table.optional("unicast_hop_limit", |value| {
                value::integer(
                    value,
                    1..=255,
                    "leave the key out to get 255, which nobody beyond a router can forge",
                )
            }),
            checksum: table.optional("checksum", value::choice),
            group: table.optional("group", value::name),
            track: table.optional_tables("track", TrackKeys::read),
            notify: table.optional("notify", command),
            notify_timeout: table.optional("notify_timeout", |value| {
                value::duration(value, NOTIFY_TIMEOUTS, "leave the key out to get \"10s\"")
                    .map(Duration::from)
            }),
            virtual_mac: table.optional("virtual_mac", value::boolean),
        }
    }

    /// Its virtual MAC address and where it is asked for, if it is.
    fn virtual_mac(&self) -> Option<(Mac, &Origin)> {
        let asked = self.virtual_mac.as_ref().filter(|at| at.value)?;
        let mac = virtual_mac(self.vrid.as_ref()?.value, self.is_ipv4()?);
        Some((mac, &asked.origin))
    }

    fn is_ipv4(&self) -> Option<bool> {
        Some(self.addresses.first()?.value.is_ipv4())
    }

    fn policy(&self) -> Policy {
        let copy = |at: &Option<At<Duration>>, default| at.as_ref().map_or(default, |at| at.value);
        Policy {
            preempt: self.preempt.as_ref().is_none_or(|at| at.value),
            preempt_delay: copy(&self.preempt_delay, PREEMPT_DELAY),
            start_delay: copy(&self.start_delay, Duration::ZERO),
            refresh: REFRESH,
        }
    }

    fn report(&self, document: &Document, errors: &mut Vec<ConfigError>) {
        let interfaces = &document.datapath.interfaces;
        if let Some(at) = &self.interface
            && interfaces.iter().all(|interface| interface.value != at.value)
        {
            errors.push(at.origin.error(format!(
                "expected one of datapath.interfaces, found {:?}: elsewhere packets to the addresses would not meet the XDP \
                 program; add it there",
                at.value
            )));
        }
        if let Some(first) = self.addresses.first() {
            let others = self.addresses.iter().chain(&self.unicast_peers);
            for at in others.filter(|at| at.value.is_ipv4() != first.value.is_ipv4()) {
                errors.push(at.origin.error(format!(
                    "expected an address of the family of {}, found {}; IPv4 and IPv6 are instances of their own, which a group \
                     keeps together",
                    first.value, at.value
                )));
            }
        }
        for (list, most) in [
            (&self.addresses, MOST_ADDRESSES),
            (&self.unicast_peers, MOST_PEERS),
        ] {
            if let Some(at) = list.get(most) {
                errors.push(at.origin.error(format!(
                    "expected at most {most} addresses, found {}; use another instance",
                    list.len()
                )));
            }
        }
        for peer in &self.unicast_peers {
            if self.addresses.iter().any(|address| address.value == peer.value) {
                errors.push(peer.origin.error(format!(
                    "expected a balancer's own address, found {}, which is shared; peers need addresses that stay where they are",
                    peer.value
                )));
            }
        }
        if let Some(at) = &self.source {
            self.report_source(at, document, errors);
        }
        if let Some(at) = &self.unicast_hop_limit
            && self.unicast_peers.is_empty()
        {
            errors.push(
                at.origin
                    .error("expected this key beside `unicast_peers`; remove it"),
            );
        }
        if let Some(at) = &self.checksum
            && self.is_ipv4() == Some(false)
        {
            errors.push(
                at.origin
                    .error("expected this key with IPv4 only: over IPv6 there is one checksum; remove it"),
            );
        }
        if let Some(at) = &self.notify_timeout
            && self.notify.is_none()
        {
            errors.push(at.origin.error("expected this key beside `notify`; remove it"));
        }
        for track in &self.track {
            track.report(document, self.priority.as_ref(), errors);
        }
    }

    fn report_source(&self, at: &At<IpAddr>, document: &Document, errors: &mut Vec<ConfigError>) {
        let source = at.value;
        if let Some(is_ipv4) = self.is_ipv4() {
            let kind = Kind::of_source(is_ipv4, self.unicast_peers.is_empty());
            if !kind.is_of(source) {
                errors.push(at.origin.error(format!(
                    "expected {kind}, found {source}; advertisements come from one of the family of `addresses`, over IPv6 to the \
                     multicast group from the link-local one, to peers from another"
                )));
                return;
            }
        }
        let carried = document.vrrp.iter().flat_map(|instance| &instance.addresses);
        let vips = document
            .services
            .iter()
            .filter_map(|service| service.vip.as_ref());
        if carried.chain(vips).any(|shared| shared.value == source) {
            errors.push(at.origin.error(format!(
                "expected an address of this balancer alone, found {source}, which is shared; use one that stays where it is"
            )));
        }
    }

    fn assemble(self, datapath: &Datapath) -> Option<Vrrp> {
        let policy = self.policy();
        let first_interface = datapath.interfaces.first()?.value.clone();
        let interval = value_or(self.advert_interval, Interval::from_duration(ADVERT_INTERVAL)?);
        let addresses = |list: Vec<At<IpAddr>>| list.into_iter().map(|at| at.value);
        Some(Vrrp {
            name: self.name?.value,
            interface: value_or(self.interface, first_interface),
            vrid: self.vrid?.value,
            addresses: addresses(self.addresses).collect(),
            source: self.source.map(|at| at.value),
            audience: if self.unicast_peers.is_empty() {
                Audience::Multicast
            } else {
                Audience::Unicast {
                    peers: addresses(self.unicast_peers).collect(),
                    hop_limit: value_or(self.unicast_hop_limit, HOP_LIMIT),
                }
            },
            checksum: match value_or(self.checksum, VrrpChecksum::Rfc9568) {
                VrrpChecksum::Rfc9568 => ChecksumForm::Message,
                VrrpChecksum::Rfc5798 => ChecksumForm::PseudoHeader,
            },
            settings: Settings {
                priority: value_or(self.priority, PRIORITY),
                interval,
            },
            policy,
            group: self.group.map(|at| at.value),
            track: self.track.into_iter().filter_map(TrackKeys::assemble).collect(),
            notify: self.notify.map(|at| Hook {
                command: at.value,
                timeout: value_or(self.notify_timeout, NOTIFY_TIMEOUT),
            }),
            has_virtual_mac: value_or(self.virtual_mac, false),
        })
    }
}

/// Where programs are named.
pub(super) fn programs(keys: &[VrrpKeys]) -> Vec<ProgramPlace> {
    let of = |keys: &VrrpKeys| {
        let notify = keys.notify.as_ref().map(ProgramPlace::of);
        let tracked = keys.track.iter().filter_map(TrackKeys::program);
        tracked.chain(notify).collect::<Vec<_>>()
    };
    keys.iter().flat_map(of).collect()
}

/// The typed instances; `None` if a required key is missing or was refused.
pub(super) fn assemble(keys: Vec<VrrpKeys>, datapath: &Datapath) -> Option<Vec<Vrrp>> {
    keys.into_iter().map(|keys| keys.assemble(datapath)).collect()
}

/// Reports what contradicts each other in the instances, and between them and the rest.
pub(super) fn report_conflicts(document: &Document, errors: &mut Vec<ConfigError>) {
    let (mut names, mut routers, mut addresses) = (HashMap::new(), HashMap::new(), HashMap::new());
    let first_interface = document.datapath.interfaces.first().map(|at| &at.value);
    let mut groups: HashMap<&str, &VrrpKeys> = HashMap::new();
    report_macs(document, errors);
    for instance in &document.vrrp {
        instance.report(document, errors);
        if let Some(at) = &instance.name {
            once(
                &mut names,
                at.value.as_str(),
                &at.origin,
                "each name once",
                errors,
            );
        }
        let interface = instance
            .interface
            .as_ref()
            .map(|at| &at.value)
            .or(first_interface);
        if let (Some(at), Some(is_ipv4)) = (&instance.vrid, instance.is_ipv4()) {
            let router = (interface, is_ipv4, at.value);
            once(
                &mut routers,
                router,
                &at.origin,
                "each VRID once for an interface and a family",
                errors,
            );
        }
        for at in &instance.addresses {
            once(&mut addresses, at.value, &at.origin, "each address once", errors);
        }
        let Some(group) = &instance.group else { continue };
        let first = *groups.entry(group.value.as_str()).or_insert(instance);
        if first.policy() != instance.policy() {
            errors.push(group.origin.error(format!(
                "expected preempt, preempt_delay and start_delay as in the group's first instance (line {}), found others: the \
                 instances of a group move together; make them alike",
                first.origin.line
            )));
        }
    }
}

/// The program knows a few MAC addresses to be ours, virtual ones included.
fn report_macs(document: &Document, errors: &mut Vec<ConfigError>) {
    let interfaces = document.datapath.interfaces.len();
    let mut macs = BTreeSet::new();
    for (mac, origin) in document.vrrp.iter().filter_map(VrrpKeys::virtual_mac) {
        if macs.insert(mac) && interfaces + macs.len() > MAX_INTERFACES {
            errors.push(origin.error(format!(
                "expected at most {MAX_INTERFACES} interfaces and virtual MAC addresses together, found {interfaces} and {}; put more \
                 addresses into one instance, or leave the key out here",
                macs.len()
            )));
        }
    }
}

fn once<'d, K: Hash + Eq>(
    seen: &mut HashMap<K, &'d Origin>,
    key: K,
    origin: &'d Origin,
    expected: &str,
    errors: &mut Vec<ConfigError>,
) {
    if let Some(first) = seen.get(&key) {
        errors.push(origin.error(format!(
            "expected {expected}, found it a second time (first on line {}); change one",
            first.line
        )));
    } else {
        seen.insert(key, origin);
    }
}

/// An integer from 1 to 255.
fn number(value: &DeValue<'_>, advice: &str) -> Result<NonZeroU8, String> {
    let number = value::integer(value, 1_u8..=255, advice)?;
    NonZeroU8::new(number).ok_or_else(|| advice.to_owned())
}

fn interval(value: &DeValue<'_>) -> Result<Interval, String> {
    let duration = value::duration(value, INTERVALS, "leave the key out to get \"250ms\"")?;
    Interval::from_duration(duration.into()).ok_or_else(|| {
        format!(
            "expected a multiple of 10ms, found {}; an advertisement tells the interval in hundredths of a second",
            found(value)
        )
    })
}
