//! What is measured: the balancer's program, loaded and filled the way the controller does it.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use lb_common::counter::Counter;
use lb_common::hash;
use lb_common::layout::{NO_TARGET, NextHop, Node, ServiceKey, Target, Traffic};
use lb_common::testing::frame::BALANCER_MAC;
use lb_ctl::adapters::datapath::{Datapath, Sizes};
use lb_ctl::core::config::{self, HostDefaults};
use lb_ctl::core::placement::Placement;
use lb_ctl::core::plan::{Plan, PlannedService};

use super::cases::SERVICES;

const BACKENDS: u8 = 8;

/// The program with its tables.
pub(super) struct Subject {
    pub(super) datapath: Datapath,
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
    /// Loads the program with tables of the default sizes.
    pub(super) fn load() -> Result<Self> {
        let host = HostDefaults {
            node_name: "bench".to_owned(),
        };
        let config = config::parse("the bench's configuration", &configuration()?, &host)?;
        let mut placement = Placement::empty(&config.datapath);
        let mut plan = placement.plan(&config)?;
        for (service, planned) in SERVICES.iter().zip(&mut plan.services) {
            if !service.has_live_backends {
                planned.slots.fill(NO_TARGET);
            }
        }
        let mut datapath = Datapath::load(Sizes::of(&config.datapath))?;
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
        datapath.write_node(&Node::new([BALANCER_MAC], false))?;
        Ok(Self { datapath, plan })
    }

    /// The target that a service's table names for a client without history.
    pub(super) fn target(&self, service: SocketAddr, client: SocketAddr) -> Result<u16> {
        let key = ServiceKey::tcp(service.ip().into(), service.port());
        let PlannedService { entry, slots, .. } = self
            .plan
            .services
            .iter()
            .find(|service| service.key == key)
            .with_context(|| format!("the bench has no service {service}"))?;
        let flow = hash::flow(entry.hash_seed, client.ip().into(), client.port());
        let slot = hash::slot(flow, entry.slots);
        slots
            .get(slot as usize)
            .copied()
            .with_context(|| format!("service {service} has no slot {slot}"))
    }

    pub(super) fn counts(&self) -> Result<Counts> {
        let exceptional = Counter::ALL
            .iter()
            .map(|&counter| self.datapath.counter(counter))
            .collect::<Result<_, _>>()?;
        let ids = std::iter::once(0).chain(self.plan.targets.iter().map(|target| target.id));
        let traffic = ids
            .map(|id| self.datapath.traffic(id))
            .collect::<Result<_, _>>()?;
        Ok(Counts { exceptional, traffic })
    }
}

impl Counts {
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

/// The MAC address of a target's next hop.
pub(super) const fn mac(id: u16) -> [u8; 6] {
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
            "[[service]]\nname = \"service{family}-{port}\"\nvip = \"{vip}\"\nport = {port}\nno_backend = \"drop\""
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
