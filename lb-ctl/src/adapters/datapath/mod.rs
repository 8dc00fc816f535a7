//! The XDP programs and their maps in the kernel: the balancer here, the decapsulator in a module of its own.

mod attachment;
mod bpf_call;
mod count_reader;
pub mod decapsulator;
mod error;
mod flow_reader;
mod force_detach;
mod hash_table;
mod links;
mod listening;
mod live;
mod live_table;
mod loading;
mod mapped;
mod memo;
mod migration;
mod mirrored_tables;
mod owned;
mod peer_source;
mod pin_names;
mod pins;
mod pod;
mod service_ids;
mod shape;
mod slots;
mod sweep;
mod ways_back;

use std::{collections::BTreeSet, sync::Arc};

use aya::{
    Ebpf,
    maps::{Array, DevMapHash, HashMap, LpmTrie, Map, MapError, PerCpuArray, PerCpuValues, lpm_trie},
    programs::{TestRun, TestRunOptions, Xdp},
    util::nr_cpus,
};
use lb_common::{
    address::Address,
    layout::{
        Affinity, AllowedKey, ClientKey, FlowKey, FlowRecord, HalfOpen, Live, Node, Service, ServiceKey,
        SettledFlow, Slot, Target, TargetName, Traffic, map,
    },
};

pub use attachment::Attachment;
pub use count_reader::{CountReader, SlotCounts};
pub use error::DatapathError;
pub use flow_reader::FlowReader;
pub use links::Link;
pub use live::LiveTables;
pub use loading::Loaded;
pub use mirrored_tables::MirroredTables;
pub use peer_source::PeerSource;
pub use pins::{Pins, Removed, nodes as pinned_nodes};
pub use sweep::Sweep;

use crate::core::{
    config::DatapathConfig,
    placement::{Found, WriteTables},
    plan::PlannedTarget,
};
use hash_table::HashTable;
use links::Links;
use listening::Listening;
use live_table::LiveTable;
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
    /// Half-open records. Also the notes of flows without a record.
    pub half_open: u32,
}

/// Room for connections in tracked slots of which there has been a SYN only.
const HALF_OPEN: u32 = 65_536;

impl Sizes {
    /// The sizes that a configuration asks for. Its bounds keep them within 32 bits.
    pub fn of(config: &DatapathConfig) -> Self {
        Self {
            services: config.max_services.saturating_mul(2),
            slots: config.max_services.saturating_mul(config.slots_per_service),
            targets: config.max_backends.saturating_add(1),
            flows: config.max_flows,
            half_open: HALF_OPEN,
        }
    }
}

/// The loaded program with its maps. They live until this is dropped, unless they are attached or pinned.
pub struct Datapath {
    slots: Arc<SlotTable>,
    live: Arc<LiveTable>,
    /// The targets' names, a map that no program uses.
    names: Map,
    /// Whether these tables lack records that others have.
    awaits_records: bool,
    /// What has changed in the tables, for whoever listens.
    listening: Arc<Listening>,
    /// Whether somebody does, as the program is told.
    listens: bool,
    links: Arc<Links>,
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
    /// Writes what the program knows of this host. Before that it forwards nothing. Whether it waits for records and whether somebody
    /// listens stay as they are.
    pub fn write_node(&mut self, node: &Node) -> Result<(), DatapathError> {
        let node = Node {
            awaits_records: u32::from(self.awaits_records),
            listens: u16::from(self.listens),
            ..*node
        };
        let mut nodes = Array::<_, Raw<Node>>::try_from(self.map_mut(map::NODE)?)?;
        Ok(nodes.set(0, Raw(node), 0)?)
    }

    /// Says whether records are missing, so that the program drops what depends on them; and, to the next start, that these tables
    /// do not count yet.
    pub fn set_awaits_records(&mut self, awaits: bool) -> Result<(), DatapathError> {
        self.awaits_records = awaits;
        let node = self.node()?;
        self.write_node(&node)
    }

    /// Says which interfaces are ours, in the order of the configuration: what the other balancer calls them.
    pub fn set_links(&self, links: Vec<Link>) {
        self.links.set(links);
    }

    /// Allows the use of a restricted service from a prefix.
    pub fn allow(&mut self, prefix: &AllowedKey) -> Result<(), DatapathError> {
        let mut allowed = LpmTrie::<_, [u32; 5], u32>::try_from(self.map_mut(map::ALLOWED)?)?;
        Ok(allowed.insert(&lpm_trie::Key::new(prefix.bits(), prefix.data()), 1, 0)?)
    }

    /// Whether a client may use a restricted service.
    pub fn is_allowed(&self, service: u16, client: Address) -> Result<bool, DatapathError> {
        let allowed = LpmTrie::<_, [u32; 5], u32>::try_from(self.map(map::ALLOWED)?)?;
        let key = AllowedKey::client(service, client);
        match allowed.get(&lpm_trie::Key::new(key.bits(), key.data()), 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The prefixes from which restricted services may be used.
    fn allowed(&self) -> Result<Vec<AllowedKey>, DatapathError> {
        let allowed = LpmTrie::<_, [u32; 5], u32>::try_from(self.map(map::ALLOWED)?)?;
        let mut prefixes = Vec::new();
        for key in allowed.keys() {
            let key = key?;
            prefixes.extend(AllowedKey::of_parts(key.prefix_len(), key.data()));
        }
        Ok(prefixes)
    }

    /// Says through which interfaces, by index, packets can leave that came in through another one. The kernel itself forgets
    /// an interface that is deleted.
    pub fn write_devices(&mut self, indices: &BTreeSet<u32>) -> Result<(), DatapathError> {
        let mut devices = DevMapHash::try_from(self.map_mut(map::DEVICES)?)?;
        let present = devices.keys().collect::<Result<BTreeSet<u32>, _>>()?;
        for &index in present.difference(indices) {
            match devices.remove(index) {
                Err(MapError::KeyNotFound) => {}
                other => other?,
            }
        }
        for &index in indices {
            devices
                .insert(index, index, None, 0)
                .map_err(|error| DatapathError::Device {
                    index,
                    source: Box::new(error),
                })?;
        }
        Ok(())
    }

    /// The entries of the service table, the allowed prefixes, and the names of targets.
    pub fn found(&self) -> Result<Found, DatapathError> {
        let mut found = Found {
            allowed: self.allowed()?,
            ..Found::default()
        };
        let services = HashTable::<ServiceKey, Service>::of(self.map(map::SERVICES)?)?;
        services.for_each(|key, service| {
            found.services.push((key, service));
            Ok(())
        })?;
        let names = Array::<_, Raw<TargetName>>::try_from(&self.names)?;
        for (id, index) in (0..=u16::MAX).zip(0..names.len()) {
            let Raw(name) = names.get(&index, 0)?;
            if name.name().is_some() {
                found.names.push((id, name));
            }
        }
        Ok(found)
    }

    /// Writes an entry of the service table.
    pub fn write_service(&mut self, key: ServiceKey, service: Service) -> Result<(), DatapathError> {
        let mut services =
            HashMap::<_, Raw<ServiceKey>, Raw<Service>>::try_from(self.map_mut(map::SERVICES)?)?;
        Ok(services.insert(Raw(key), Raw(service), 0)?)
    }

    /// Writes a slot, atomically.
    pub fn write_slot(&mut self, index: u32, slot: Slot) -> Result<(), DatapathError> {
        let store = || self.slots.store(index, slot).map(|()| true);
        self.listening.write_slot(index, store).map(drop)
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

    /// What was noted of a flow without a record.
    pub fn settled_flow(&self, key: FlowKey) -> Result<Option<SettledFlow>, DatapathError> {
        let noted =
            HashMap::<_, Raw<FlowKey>, Raw<SettledFlow>>::try_from(find(&self.ebpf, map::SETTLED_FLOWS)?)?;
        present(noted.get(&Raw(key), 0))
    }

    /// What is noted of a client of an affine service.
    pub fn affinity(&self, key: ClientKey) -> Result<Option<Affinity>, DatapathError> {
        let noted = HashMap::<_, Raw<ClientKey>, Raw<Affinity>>::try_from(find(&self.ebpf, map::AFFINITY)?)?;
        present(noted.get(&Raw(key), 0))
    }

    /// Says whether established records are running short, so that new connections do without where they can.
    pub fn set_records_short(&mut self, short: bool) -> Result<(), DatapathError> {
        let mut setting = Array::<_, u32>::try_from(self.map_mut(map::RECORDS_SHORT)?)?;
        Ok(setting.set(0, u32::from(short), 0)?)
    }

    /// Whether established records are running short, as [`Datapath::set_records_short`] has said.
    pub fn are_records_short(&self) -> Result<bool, DatapathError> {
        let setting = Array::<_, u32>::try_from(self.map(map::RECORDS_SHORT)?)?;
        Ok(setting.get(&0, 0)? != 0)
    }

    /// An entry of the service table.
    fn service(&self, key: ServiceKey) -> Result<Option<Service>, DatapathError> {
        let services =
            HashMap::<_, Raw<ServiceKey>, Raw<Service>>::try_from(find(&self.ebpf, map::SERVICES)?)?;
        present(services.get(&Raw(key), 0))
    }

    /// What the program knows of this host.
    fn node(&self) -> Result<Node, DatapathError> {
        let nodes = Array::<_, Raw<Node>>::try_from(find(&self.ebpf, map::NODE)?)?;
        Ok(nodes.get(&0, 0)?.0)
    }

    /// Reads an entry of the target table.
    pub fn target(&self, id: u16) -> Result<Target, DatapathError> {
        let targets = Array::<_, Raw<Target>>::try_from(self.map(map::TARGETS)?)?;
        let Raw(target) = targets.get(&u32::from(id), 0)?;
        Ok(target)
    }

    /// Writes an entry of the target table.
    pub fn write_target(&mut self, id: u16, target: Target) -> Result<(), DatapathError> {
        let mut targets = Array::<_, Raw<Target>>::try_from(self.map_mut(map::TARGETS)?)?;
        Ok(targets.set(u32::from(id), Raw(target), 0)?)
    }

    /// The live connections of a target.
    pub fn live(&self, id: u16) -> Live {
        self.live.get(id)
    }

    /// Says how many live connections a target has. No record may name it, or nobody write to the records.
    pub fn write_live(&self, id: u16, live: Live) {
        self.live.set(id, live);
    }

    /// Adds to the live connections of a target what their count lacks, whoever counts meanwhile.
    pub fn correct_live(&self, id: u16, missing: i32) {
        self.live.correct(id, missing);
    }

    /// Begins to count a target's traffic anew.
    fn reset_traffic(&mut self, id: u16) -> Result<(), DatapathError> {
        let cpus = nr_cpus().map_err(|(_, source)| DatapathError::Access {
            what: "counting the CPUs for a value",
            source,
        })?;
        let zeros = vec![Raw(Traffic::default()); cpus];
        let values = PerCpuValues::try_from(zeros).map_err(|source| DatapathError::Access {
            what: "laying out a value for each CPU",
            source,
        })?;
        let mut traffic = PerCpuArray::<_, Raw<Traffic>>::try_from(self.map_mut(map::TRAFFIC)?)?;
        Ok(traffic.set(u32::from(id), values, 0)?)
    }

    fn write_name(&mut self, id: u16, name: TargetName) -> Result<(), DatapathError> {
        let mut names = Array::<_, Raw<TargetName>>::try_from(&mut self.names)?;
        Ok(names.set(u32::from(id), Raw(name), 0)?)
    }

    /// Runs the program once on a frame, without a network (`BPF_PROG_TEST_RUN`). The kernel wants at least 14 bytes.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<TestRunOutput, DatapathError> {
        test_run(xdp(&mut self.ebpf)?, frame)
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
        self.ebpf.maps().chain([(map::TARGET_NAMES, &self.names)])
    }

    fn map(&self, name: &'static str) -> Result<&Map, DatapathError> {
        match name {
            map::TARGET_NAMES => Ok(&self.names),
            _ => find(&self.ebpf, name),
        }
    }

    fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, DatapathError> {
        match name {
            map::TARGET_NAMES => Ok(&mut self.names),
            _ => self
                .ebpf
                .map_mut(name)
                .ok_or(DatapathError::Object { missing: name }),
        }
    }
}

impl WriteTables for Datapath {
    type Error = DatapathError;

    fn slot(&self, index: u32) -> Result<Slot, DatapathError> {
        self.slots.load(index)
    }

    fn store_slot(&mut self, index: u32, slot: Slot) -> Result<(), DatapathError> {
        self.write_slot(index, slot)
    }

    fn replace_slot(&mut self, index: u32, expected: Slot, slot: Slot) -> Result<bool, DatapathError> {
        let replace = || self.slots.replace(index, expected, slot);
        self.listening.write_slot(index, replace)
    }

    fn write_service(&mut self, key: ServiceKey, service: Service) -> Result<(), DatapathError> {
        Self::write_service(self, key, service)
    }

    fn remove_service(&mut self, key: ServiceKey) -> Result<(), DatapathError> {
        let mut services =
            HashMap::<_, Raw<ServiceKey>, Raw<Service>>::try_from(self.map_mut(map::SERVICES)?)?;
        match services.remove(&Raw(key)) {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn allow(&mut self, prefix: &AllowedKey) -> Result<(), DatapathError> {
        Self::allow(self, prefix)
    }

    fn disallow(&mut self, prefix: &AllowedKey) -> Result<(), DatapathError> {
        let mut allowed = LpmTrie::<_, [u32; 5], u32>::try_from(self.map_mut(map::ALLOWED)?)?;
        match allowed.remove(&lpm_trie::Key::new(prefix.bits(), prefix.data())) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn introduce_target(&mut self, target: &PlannedTarget) -> Result<(), DatapathError> {
        self.reset_traffic(target.id)?;
        self.write_live(target.id, Live::default());
        let entry = Target::new(target.address.into(), target.forwarding, None);
        self.write_target(target.id, entry.shedding(target.is_checked))?;
        // Last: only now the id stands for somebody.
        self.write_name(target.id, target.name)
    }

    fn drain(&mut self, id: u16, drains: bool) -> Result<(), DatapathError> {
        let target = self.target(id)?;
        if target.drains() != drains {
            self.write_target(id, target.draining(drains))?;
        }
        Ok(())
    }

    fn weigh(&mut self, id: u16, weight: u32) -> Result<(), DatapathError> {
        let target = self.target(id)?;
        if target.weight() != weight {
            self.write_target(id, target.weighing(weight))?;
        }
        Ok(())
    }

    fn shed(&mut self, id: u16, sheds: bool) -> Result<(), DatapathError> {
        let target = self.target(id)?;
        if target.sheds() != sheds {
            self.write_target(id, target.shedding(sheds))?;
        }
        Ok(())
    }

    fn forget_target(&mut self, id: u16) -> Result<(), DatapathError> {
        self.write_target(id, Target::NONE)?;
        self.write_name(id, TargetName::NOBODY)
    }
}

/// Runs a program once on a frame, without a network (`BPF_PROG_TEST_RUN`). The kernel wants at least 14 bytes.
fn test_run(program: &Xdp, frame: &[u8]) -> Result<TestRunOutput, DatapathError> {
    // Room for what forwarding may add to a frame.
    let mut output = vec![0; frame.len() + 256];
    let result = program.test_run(TestRunOptions {
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
