//! The balancer's XDP program and its maps in the kernel.

mod attachment;
mod error;
mod force_detach;
mod pin_names;
mod pins;
mod pod;
mod slots;
mod ways_back;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapError, PerCpuArray},
    programs::{TestRun, TestRunOptions, Xdp},
};
use lb_common::{
    counter::Counter,
    layout::{FlowKey, FlowRecord, HalfOpen, Node, Service, ServiceKey, Slot, Target, Traffic, map},
};

pub use attachment::Attachment;
pub use error::DatapathError;
pub use pins::{Pins, Removed, nodes as pinned_nodes};

use super::programs;
use crate::core::{config::DatapathConfig, plan::Plan};
use pod::Raw;
use slots::SlotTable;

/// The name of the program in its object file.
const PROGRAM: &str = "balancer";

/// How many entries the maps have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Entries of the service table: one for each service, one for each VIP.
    pub services: u32,
    /// Entries of the slot table, which all services share.
    pub slots: u32,
    /// Entries of the target table, the unused id 0 included.
    pub targets: u32,
    /// Established records.
    pub flows: u32,
    /// Half-open records.
    pub half_open: u32,
}

/// Room for connections in tracked slots.
const FLOWS: u32 = 262_144;
/// Room for connections in tracked slots of which there has been a SYN only.
const HALF_OPEN: u32 = 65_536;

impl Sizes {
    /// The sizes that a configuration asks for. Its bounds keep them within 32 bits.
    pub fn of(config: &DatapathConfig) -> Self {
        Self {
            services: config.max_services.saturating_mul(2),
            slots: config.max_services.saturating_mul(config.slots_per_service),
            targets: config.max_backends.saturating_add(1),
            flows: FLOWS,
            half_open: HALF_OPEN,
        }
    }
}

/// The loaded program with its maps. They live until this is dropped, unless they are attached or pinned.
pub struct Datapath {
    slots: SlotTable,
    ebpf: Ebpf,
}

/// What the program did with a frame in a test run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRunOutput {
    /// The XDP action: 1 drop, 2 pass, 3 transmit.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

impl Datapath {
    /// Creates the maps and loads the program. Attaches nothing.
    pub fn load(sizes: Sizes) -> Result<Self, DatapathError> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(map::SERVICES, sizes.services)
            .map_max_entries(map::SLOTS, sizes.slots)
            .map_max_entries(map::TARGETS, sizes.targets)
            .map_max_entries(map::TRAFFIC, sizes.targets)
            .map_max_entries(map::FLOWS, sizes.flows)
            .map_max_entries(map::RETURNS, sizes.flows)
            .map_max_entries(map::HALF_OPEN, sizes.half_open)
            .map_max_entries(map::HALF_OPEN_RETURNS, sizes.half_open)
            .load(programs::BALANCER)
            .map_err(DatapathError::load)?;
        xdp(&mut ebpf)?.load().map_err(DatapathError::verify)?;
        let slots = SlotTable::of(find(&ebpf, map::SLOTS)?, sizes.slots)?;
        Ok(Self { slots, ebpf })
    }

    /// Writes slots and services. Slots first: a service is visible to packets only once its slots are there.
    pub fn write_plan(&mut self, plan: &Plan) -> Result<(), DatapathError> {
        for service in &plan.services {
            for (index, &target) in (service.entry.first_slot..).zip(&service.slots) {
                self.write_slot(index, Slot::untracked(target))?;
            }
        }
        for service in &plan.services {
            let vip = Service {
                slots: 0,
                ..service.entry
            };
            self.write_service(service.vip_key, vip)?;
            self.write_service(service.key, service.entry)?;
        }
        Ok(())
    }

    /// Writes what the program knows of this host. Before that it forwards nothing.
    pub fn write_node(&mut self, node: &Node) -> Result<(), DatapathError> {
        let mut nodes = Array::<_, Raw<Node>>::try_from(self.map_mut(map::NODE)?)?;
        Ok(nodes.set(0, Raw(*node), 0)?)
    }

    /// Writes an entry of the service table.
    pub fn write_service(&mut self, key: ServiceKey, service: Service) -> Result<(), DatapathError> {
        let mut services =
            HashMap::<_, Raw<ServiceKey>, Raw<Service>>::try_from(self.map_mut(map::SERVICES)?)?;
        Ok(services.insert(Raw(key), Raw(service), 0)?)
    }

    /// Writes a slot, atomically.
    pub fn write_slot(&mut self, index: u32, slot: Slot) -> Result<(), DatapathError> {
        self.slots.store(index, slot)
    }

    /// Reads a slot.
    pub fn slot(&self, index: u32) -> Result<Slot, DatapathError> {
        self.slots.load(index)
    }

    /// The established record of a flow.
    pub fn flow_record(&self, key: FlowKey) -> Result<Option<FlowRecord>, DatapathError> {
        let flows = HashMap::<_, Raw<FlowKey>, Raw<FlowRecord>>::try_from(find(&self.ebpf, map::FLOWS)?)?;
        present(flows.get(&Raw(key), 0))
    }

    /// The half-open record of a flow.
    pub fn half_open_record(&self, key: FlowKey) -> Result<Option<HalfOpen>, DatapathError> {
        let half_open =
            HashMap::<_, Raw<FlowKey>, Raw<HalfOpen>>::try_from(find(&self.ebpf, map::HALF_OPEN)?)?;
        present(half_open.get(&Raw(key), 0))
    }

    /// Says whether established records are running short, so that new connections do without where they can.
    pub fn set_records_short(&mut self, short: bool) -> Result<(), DatapathError> {
        let mut setting = Array::<_, u32>::try_from(self.map_mut(map::RECORDS_SHORT)?)?;
        Ok(setting.set(0, u32::from(short), 0)?)
    }

    /// Writes an entry of the target table.
    pub fn write_target(&mut self, id: u16, target: Target) -> Result<(), DatapathError> {
        let mut targets = Array::<_, Raw<Target>>::try_from(self.map_mut(map::TARGETS)?)?;
        Ok(targets.set(u32::from(id), Raw(target), 0)?)
    }

    /// What was forwarded to a target, over all CPUs.
    pub fn traffic(&self, id: u16) -> Result<Traffic, DatapathError> {
        let traffic = PerCpuArray::<_, Raw<Traffic>>::try_from(find(&self.ebpf, map::TRAFFIC)?)?;
        let per_cpu = traffic.get(&u32::from(id), 0)?;
        Ok(per_cpu
            .iter()
            .fold(Traffic::default(), |sum, cpu| sum.plus(cpu.0)))
    }

    /// A counter, over all CPUs.
    pub fn counter(&self, counter: Counter) -> Result<u64, DatapathError> {
        let counters = PerCpuArray::<_, u64>::try_from(find(&self.ebpf, map::COUNTERS)?)?;
        let per_cpu = counters.get(&(counter as u32), 0)?;
        Ok(per_cpu.iter().copied().fold(0, u64::wrapping_add))
    }

    /// Runs the program once on a frame, without a network (`BPF_PROG_TEST_RUN`). The kernel wants at least 14 bytes.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<TestRunOutput, DatapathError> {
        // Room for what forwarding may add to a frame.
        let mut output = vec![0; frame.len() + 256];
        let result = xdp(&mut self.ebpf)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ..TestRunOptions::default()
        })?;
        output.truncate(result.data_size_out as usize);
        Ok(TestRunOutput {
            action: result.return_value,
            frame: output,
        })
    }

    /// The loaded program, for whoever wants to know about it or to call it from another program.
    pub fn program(&self) -> Result<&Xdp, DatapathError> {
        let program = self
            .ebpf
            .program(PROGRAM)
            .ok_or(DatapathError::Object { missing: PROGRAM })?;
        Ok(program.try_into()?)
    }

    /// The maps by name, for pinning.
    fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.ebpf.maps()
    }

    fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, DatapathError> {
        self.ebpf
            .map_mut(name)
            .ok_or(DatapathError::Object { missing: name })
    }
}

/// A value that may be absent.
fn present<T: Copy>(found: Result<Raw<T>, MapError>) -> Result<Option<T>, DatapathError> {
    match found {
        Ok(Raw(value)) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn find<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a Map, DatapathError> {
    ebpf.map(name).ok_or(DatapathError::Object { missing: name })
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, DatapathError> {
    let program = ebpf
        .program_mut(PROGRAM)
        .ok_or(DatapathError::Object { missing: PROGRAM })?;
    Ok(program.try_into()?)
}
