//! What is measured: the balancer's program, loaded and filled the way the controller does it.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use lb_common::counter::Counter;
use lb_common::decision::Tables as _;
use lb_common::hash;
use lb_common::headers::Segment;
use lb_common::layout::{
    self, FlowKey, FlowRecord, NO_TARGET, NextHop, Node, ServiceKey, Slot, Target, Traffic,
};
use lb_common::testing::HostTables;
use lb_common::testing::frame::BALANCER_MAC;
use lb_common::translation::return_key;
use lb_ctl::adapters::datapath::{Datapath, Sizes};
use lb_ctl::core::config::{self, HostDefaults};
use lb_ctl::core::placement::Placement;
use lb_ctl::core::plan::{Plan, PlannedService, Shares};

use super::cases::{Forward, Service, Slots};

/// The first backend's address; the others count up from it.
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Where backends of `nat` serve.
const NAT_PORT: u16 = 21050;
/// The first backend's address over IPv6.
const BACKEND6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

/// The program with its tables.
pub(super) struct Subject {
    pub(super) datapath: Datapath,
    /// The same tables as ordinary collections. Records are made in them as they are needed.
    pub(super) host: HostTables,
    plan: Plan,
}

/// All counters of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// By [`Counter`].
    pub(super) exceptional: Vec<u64>,
    /// By target id.
    pub(super) traffic: Vec<Traffic>,
}

impl Subject {
    /// Loads the program with tables of the default sizes, or larger ones if so many flows of each of these services need them.
    pub(super) fn load(services: &[Service], flows: u32) -> Result<Self> {
        let host = HostDefaults {
            node_name: "bench".to_owned(),
        };
        let config = config::parse(
            "the bench's configuration",
            &configuration(services, flows)?,
            &host,
        )?;
        let mut placement = Placement::empty(&config.datapath);
        let mut plan = placement.plan(&config, &Shares::configured(&config))?;
        for (service, planned) in services.iter().zip(&mut plan.services) {
            if service.slots == Slots::Empty {
                planned.slots.fill(NO_TARGET);
            }
        }
        let mut sizes = Sizes::of(&config.datapath);
        let recorded = services.iter().filter(|service| service.is_recorded()).count();
        sizes.flows = sizes.flows.max(u32::try_from(recorded)? * flows);
        let mut datapath = Datapath::load(sizes)?;
        placement.introduce(&plan, &mut datapath)?;
        for target in &plan.targets {
            let next_hop = NextHop {
                mac: mac(target.id),
                source: BALANCER_MAC,
                egress: 0,
                mtu: 1500,
            };
            let entry = Target::new(target.address.into(), target.forwarding, Some(next_hop));
            datapath.write_target(target.id, entry)?;
        }
        placement.apply(&plan, 0, &mut datapath)?;
        for (service, planned) in services.iter().zip(&plan.services) {
            if service.slots == Slots::Moved {
                move_all(planned, &mut datapath)?;
            }
        }
        datapath.write_node(&Node::new([BALANCER_MAC], plan.translates()))?;
        let host = mirror(&plan, &datapath)?;
        Ok(Self { datapath, host, plan })
    }

    /// The entry of a service.
    fn service(&self, service: SocketAddr) -> Result<&layout::Service> {
        let key = ServiceKey::tcp(service.ip().into(), service.port());
        self.host
            .services
            .get(&key)
            .with_context(|| format!("the bench has no service {service}"))
    }

    /// The target and the port that the program has given to the connection of a client's packet. The host's tables, which have no
    /// other connections, would give it its own port; they get what the program has.
    pub(super) fn adopt(&mut self, segment: &Segment) -> Result<(Target, FlowRecord)> {
        let service = SocketAddr::new(segment.vip.into(), segment.port);
        let key = FlowKey::new(segment.client, segment.client_port, self.service(service)?.id);
        let no_record = || format!("the program has no record of {segment:?}");
        let record = self.datapath.flow_record(key)?.with_context(no_record)?;
        let target = self.host.target(record.target).copied().with_context(no_record)?;
        let return_key = return_key(&target, segment.vip, record.port);
        let way_back = self.datapath.way_back(return_key)?.with_context(no_record)?;
        self.host.flows.insert(key, record);
        self.host.returns.insert(return_key, way_back);
        Ok((target, record))
    }

    /// The slot of a client of a service.
    pub(super) fn slot(&self, service: SocketAddr, client: SocketAddr) -> Result<Slot> {
        let entry = self.service(service)?;
        let port = client.port() & entry.port_mask;
        let flow = hash::flow(entry.hash_seed, client.ip().into(), port);
        let slot = hash::slot(flow, entry.slots);
        self.host
            .slot(entry.first_slot + slot)
            .with_context(|| format!("service {service} has no slot {slot}"))
    }

    pub(super) fn counts(&self) -> Result<Counts> {
        let exceptional = Counter::ALL
            .iter()
            .map(|&counter| self.datapath.counter(counter))
            .collect::<Result<_, _>>()?;
        let traffic = self
            .ids()
            .map(|id| self.datapath.traffic(id))
            .collect::<Result<_, _>>()?;
        Ok(Counts { exceptional, traffic })
    }

    /// What the host's tables have counted.
    pub(super) fn host_counts(&self) -> Counts {
        Counts {
            exceptional: Counter::ALL
                .iter()
                .map(|&counter| self.host.counted(counter))
                .collect(),
            traffic: self.ids().map(|id| self.host.forwarded(id)).collect(),
        }
    }

    /// All target ids, that of nobody included, without gaps.
    fn ids(&self) -> impl Iterator<Item = u16> {
        let last = self.plan.targets.iter().map(|target| target.id).max();
        0..=last.unwrap_or(NO_TARGET)
    }
}

impl Counts {
    /// These, and what was counted between two moments elsewhere.
    #[must_use]
    pub(super) fn plus(&self, from: &Self, to: &Self) -> Self {
        let exceptional = self
            .exceptional
            .iter()
            .zip(&from.exceptional)
            .zip(&to.exceptional);
        let traffic = self.traffic.iter().zip(&from.traffic).zip(&to.traffic);
        Self {
            exceptional: exceptional.map(|((base, from), to)| base + to - from).collect(),
            traffic: traffic
                .map(|((base, from), to)| Traffic {
                    packets: base.packets + to.packets - from.packets,
                    bytes: base.bytes + to.bytes - from.bytes,
                    new_flows: base.new_flows + to.new_flows - from.new_flows,
                })
                .collect(),
        }
    }

    /// How many packets were counted at all.
    pub(super) fn total(&self) -> u64 {
        let forwarded = self.traffic.iter().map(|traffic| &traffic.packets);
        self.exceptional
            .iter()
            .chain(forwarded)
            .copied()
            .fold(0, u64::wrapping_add)
    }
}

/// Moves all slots of a service from their backend to the next one.
fn move_all(service: &PlannedService, datapath: &mut Datapath) -> Result<()> {
    for (index, &settled) in (service.entry.first_slot..).zip(&service.slots) {
        let position = service.targets.iter().position(|&target| target == settled);
        let next = position.map_or(0, |position| (position + 1) % service.targets.len());
        let slot = Slot {
            settled,
            current: service.targets[next],
            tracked: true,
            settled_seen: 0,
            grace: 0,
        };
        datapath.write_slot(index, slot)?;
    }
    Ok(())
}

/// What is in the kernel's tables, as ordinary collections.
fn mirror(plan: &Plan, datapath: &Datapath) -> Result<HostTables> {
    let mut host = HostTables::default();
    host.node = Some(Node::new([BALANCER_MAC], plan.translates()));
    for service in &plan.services {
        let entry = service.entry;
        host.services.insert(service.key, entry);
        host.services
            .insert(service.vip_key, layout::Service { slots: 0, ..entry });
        for index in u32::try_from(host.slots.len())?..entry.slot_indices().end {
            host.slots.push(datapath.slot(index)?.to_bits());
        }
    }
    let last = plan.targets.iter().map(|target| target.id).max();
    for id in 0..=last.unwrap_or(NO_TARGET) {
        host.targets.push(datapath.target(id)?);
    }
    Ok(host)
}

/// The MAC address of a target's next hop.
const fn mac(id: u16) -> [u8; 6] {
    let [high, low] = id.to_be_bytes();
    [0x02, 0, 0, 1, high, low]
}

fn configuration(services: &[Service], flows: u32) -> Result<String> {
    let backends: u32 = services.iter().map(|service| service.backends(flows)).sum();
    let mut text = format!(
        "[datapath]\ninterfaces = [\"eth0\"]\nmax_backends = {}\n",
        backends.max(1024)
    );
    for service in services {
        let (vip, port) = (service.address.ip(), service.address.port());
        let (family, forward) = (if vip.is_ipv4() { 4 } else { 6 }, service.forward.as_str());
        writeln!(
            text,
            "[[service]]\nname = \"service{family}-{port}\"\nvip = \"{vip}\"\nport = {port}\nforward = \"{forward}\"\n{}",
            service.options
        )?;
        for backend in 0..service.backends(flows) {
            let address = match service.backend_family {
                4 => Ipv4Addr::from_bits(BACKEND.to_bits() + backend).to_string(),
                _ => Ipv6Addr::from_bits(BACKEND6.to_bits() + u128::from(backend)).to_string(),
            };
            writeln!(
                text,
                "[[service.backend]]\nname = \"backend{backend}\"\naddress = \"{address}\""
            )?;
            if service.forward == Forward::Nat {
                writeln!(text, "port = {NAT_PORT}")?;
            }
        }
    }
    Ok(text)
}
