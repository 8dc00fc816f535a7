//! The tables of [`HostTables`] in the maps of the XDP program.

use anyhow::{Context, Result};
use lb_common::layout::Slot;
use lb_common::testing::HostTables;
use lb_ctl::adapters::datapath::{Datapath, Sizes};

/// Sizes with just enough room for services, slots and targets, and for so many records.
pub fn sizes(host: &HostTables, flows: u32, half_open: u32) -> Result<Sizes> {
    Ok(Sizes {
        services: u32::try_from(host.services.len())?,
        slots: u32::try_from(host.slots.len())?,
        targets: u32::try_from(host.targets.len())?,
        flows,
        half_open,
    })
}

/// Loads the program with room for so many records, and writes into its maps all that is configured or recorded in the host's tables.
pub fn load(host: &HostTables, flows: u32, half_open: u32) -> Result<Datapath> {
    let mut kernel = Datapath::load(sizes(host, flows, half_open)?).context("tests need root")?;
    for (index, &bits) in (0..).zip(&host.slots) {
        kernel.write_slot(index, Slot::from_bits(bits))?;
    }
    for (id, &target) in (0..).zip(&host.targets) {
        kernel.write_target(id, target)?;
    }
    for prefix in &host.allowed {
        kernel.allow(prefix)?;
    }
    for (&key, &service) in &host.services {
        kernel.write_service(key, service)?;
    }
    for (&key, &record) in &host.flows {
        kernel.write_flow_record(key, record)?;
    }
    for (&key, &way_back) in &host.returns {
        kernel.write_way_back(key, way_back)?;
    }
    for (&target, &live) in &host.live {
        kernel.write_live(target, live);
    }
    let node = host.node.context("the host's tables know no node")?;
    kernel.write_node(&node)?;
    if node.listens != 0 {
        kernel.listen(true)?;
    }
    Ok(kernel)
}
