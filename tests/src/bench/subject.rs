//! What is measured: the balancer's program, loaded and filled the way the controller does it.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use lb_common::counter::Counter;
use lb_common::decision::Tables as _;
use lb_common::hash;
use lb_common::layout::{self, NO_TARGET, NextHop, Node, ServiceKey, Slot, Target, Traffic};
use lb_common::testing::HostTables;
use lb_common::testing::frame::BALANCER_MAC;
use lb_ctl::adapters::datapath::{Datapath, Sizes};
use lb_ctl::core::config::{self, HostDefaults};
use lb_ctl::core::placement::Placement;
use lb_ctl::core::plan::{Plan, PlannedService, Shares};

use super::cases::{SERVICES, Slots};

const BACKENDS: u8 = 8;

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
    /// Loads the program with tables of the default sizes, or larger ones if so many flows of either address family need them.
    pub(super) fn load(flows: u32) -> Result<Self> {
        let host = HostDefaults {
            node_name: "bench".to_owned(),
        };
        let config = config::parse("the bench's configuration", &configuration()?, &host)?;
        let mut placement = Placement::empty(&config.datapath);
        let mut plan = placement.plan(&config, &Shares::configured(&config))?;
        for (service, planned) in SERVICES.iter().zip(&mut plan.services) {
            if service.slots == Slots::Empty {
                planned.slots.fill(NO_TARGET);
            }
        }
        let mut sizes = Sizes::of(&config.datapath);
        sizes.flows = sizes.flows.max(2 * flows);
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
        for (service, planned) in SERVICES.iter().zip(&plan.services) {
            if service.slots == Slots::Moved {
                move_all(planned, &mut datapath)?;
            }
        }
        datapath.write_node(&Node::new([BALANCER_MAC], false))?;
        let host = mirror(&plan, &datapath)?;
        Ok(Self { datapath, host, plan })
    }

    /// The slot of a client of a service.
    pub(super) fn slot(&self, service: SocketAddr, client: SocketAddr) -> Result<Slot> {
        let key = ServiceKey::tcp(service.ip().into(), service.port());
        let PlannedService { entry, .. } = self
            .plan
            .services
            .iter()
            .find(|service| service.key == key)
            .with_context(|| format!("the bench has no service {service}"))?;
        let flow = hash::flow(entry.hash_seed, client.ip().into(), client.port());
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
    host.node = Some(Node::new([BALANCER_MAC], false));
    for service in &plan.services {
        let entry = service.entry;
        host.services.insert(service.key, entry);
        host.services
            .insert(service.vip_key, layout::Service { slots: 0, ..entry });
        let end = entry.first_slot + entry.slots;
        for index in u32::try_from(host.slots.len())?..end {
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

fn configuration() -> Result<String> {
    let mut text = "[datapath]\ninterfaces = [\"eth0\"]\n".to_owned();
    for service in SERVICES {
        let (vip, port) = (service.address.ip(), service.address.port());
        let (family, network) = if vip.is_ipv4() {
            (4, "192.0.2.")
        } else {
            (6, "2001:db8::")
        };
        writeln!(
            text,
            "[[service]]\nname = \"service{family}-{port}\"\nvip = \"{vip}\"\nport = {port}\n{}",
            service.options
        )?;
        for backend in 1..=BACKENDS {
            writeln!(
                text,
                "[[service.backend]]\nname = \"backend{backend}\"\naddress = \"{network}{}\"",
                100 + backend
            )?;
        }
    }
    Ok(text)
}
