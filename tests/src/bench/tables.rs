//! What the tables cost: the kernel's memory for those of the default sizes, and the time to write a ring that has changed.
//!
//! Memory is what the kernel itself says of each map that this process holds: `memlock` in `/proc/self/fdinfo`. Since Linux
//! 6.4 that is what it has allocated; earlier kernels estimate it from the sizes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapInfo;
use lb_ctl::adapters::datapath::{Datapath, Sizes};
use lb_ctl::core::config::{self, Config, HostDefaults};
use lb_ctl::core::placement::Placement;
use lb_ctl::core::plan::{Plan, PlannedService, Shares};

use super::report::{self, RingFigures, TableFigures};
use super::statistics::Quartiles;
use super::{cpu_time, stay_on_one_cpu};

/// Services and backends that fill tables of the default sizes.
const SERVICES: u16 = 64;
const BACKENDS_OF_EACH: u8 = 16;

/// How the bench is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How often a ring is written.
    pub runs: u32,
    /// Lines of JSON instead of tables.
    pub json: bool,
}

/// Measures both, and prints what came out.
pub fn run(options: Options) -> Result<()> {
    let memory = memory()?;
    stay_on_one_cpu()?;
    let ring = ring(options.runs)?;
    if options.json {
        report::print_tables_json(&memory, &ring)
    } else {
        report::print_tables(&memory, &ring);
        Ok(())
    }
}

/// The kernel's memory for each table, when as many services and backends are there as the default sizes allow.
fn memory() -> Result<Vec<TableFigures>> {
    let config = configuration(SERVICES)?;
    let mut placement = Placement::empty(&config.datapath);
    let plan = placement.plan(&config, &Shares::configured(&config))?;
    ensure!(
        plan.services.len() == usize::from(SERVICES)
            && plan.targets.len() == usize::from(SERVICES) * usize::from(BACKENDS_OF_EACH),
        "expected {SERVICES} services with {BACKENDS_OF_EACH} backends each in the plan"
    );
    let before = maps_of_this_process()?;
    let mut datapath = Datapath::load(Sizes::of(&config.datapath))?;
    placement.introduce(&plan, &mut datapath)?;
    placement.apply(&plan, 0, &mut datapath)?;
    let mut tables = Vec::new();
    for (id, bytes) in maps_of_this_process()? {
        if !before.contains_key(&id) {
            let info = MapInfo::from_id(id)?;
            tables.push(TableFigures::new(
                info.name_as_str().unwrap_or("?"),
                info.max_entries(),
                bytes,
            ));
        }
    }
    tables.sort_by_key(|table| std::cmp::Reverse(table.bytes));
    Ok(tables)
}

/// What the kernel says about the memory of the maps that this process holds, by id.
fn maps_of_this_process() -> Result<BTreeMap<u32, u64>> {
    const DIRECTORY: &str = "/proc/self/fdinfo";
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(DIRECTORY).with_context(|| format!("cannot read {DIRECTORY}"))? {
        // The descriptor of the directory itself is gone by now.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        if let (Some(id), Some(bytes)) = (field("map_id"), field("memlock")) {
            maps.insert(id.parse()?, bytes.parse()?);
        }
    }
    Ok(maps)
}

/// The time that the controller takes to move all slots of a service, the way a reload does.
fn ring(runs: u32) -> Result<RingFigures> {
    let config = configuration(1)?;
    let mut placement = Placement::empty(&config.datapath);
    let mut plan = placement.plan(&config, &Shares::configured(&config))?;
    let mut datapath = Datapath::load(Sizes::of(&config.datapath))?;
    placement.introduce(&plan, &mut datapath)?;
    placement.apply(&plan, 0, &mut datapath)?;
    let slots = plan.services.iter().map(|service| service.slots.len()).sum();
    let mut times = Vec::new();
    for now in 1..=runs {
        turn(&mut plan)?;
        let begin = cpu_time()?;
        let moved = placement.apply(&plan, now, &mut datapath)?;
        let time = cpu_time()?.saturating_sub(begin);
        ensure!(
            usize::try_from(moved.moved)? == slots,
            "expected all {slots} slots to move, found {}",
            moved.moved
        );
        times.push(time);
    }
    check(&plan, &datapath)?;
    let microseconds = times.iter().map(|time: &Duration| time.as_secs_f64() * 1e6);
    Ok(RingFigures::new(slots, &Quartiles::of(microseconds), runs))
}

/// Gives each slot of each service to the backend after the one that it has.
fn turn(plan: &mut Plan) -> Result<()> {
    for PlannedService { slots, targets, .. } in &mut plan.services {
        let next: BTreeMap<u16, u16> = targets
            .iter()
            .copied()
            .zip(targets.iter().copied().cycle().skip(1))
            .collect();
        for slot in slots {
            *slot = *next
                .get(slot)
                .context("the ring names a backend of the service")?;
        }
    }
    Ok(())
}

/// Whether the kernel has what the plan says.
fn check(plan: &Plan, datapath: &Datapath) -> Result<()> {
    for service in &plan.services {
        for (index, &target) in (service.entry.first_slot..).zip(&service.slots) {
            let found = datapath.slot(index)?.current;
            ensure!(
                found == target,
                "slot {index}: expected target {target}, found {found}"
            );
        }
    }
    Ok(())
}

fn configuration(services: u16) -> Result<Config> {
    let mut text = "[datapath]\ninterfaces = [\"eth0\"]\n".to_owned();
    for service in 1..=services {
        writeln!(
            text,
            "[[service]]\nname = \"service{service}\"\nvip = \"192.0.2.{service}\"\nport = 21050"
        )?;
        for backend in 1..=BACKENDS_OF_EACH {
            writeln!(
                text,
                "[[service.backend]]\nname = \"backend{backend}\"\naddress = \"198.51.100.{backend}\""
            )?;
        }
    }
    let host = HostDefaults {
        node_name: "bench".to_owned(),
    };
    Ok(config::parse("the bench's configuration", &text, &host)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_turns_changes_every_slot_and_keeps_every_backends_share() {
        let config = configuration(1).unwrap();
        let placement = Placement::empty(&config.datapath);
        let mut plan = placement.plan(&config, &Shares::configured(&config)).unwrap();
        let before = plan.services[0].slots.clone();
        turn(&mut plan).unwrap();
        let after = &plan.services[0].slots;
        assert!(before.iter().zip(after).all(|(before, after)| before != after));
        for _ in 1..BACKENDS_OF_EACH {
            turn(&mut plan).unwrap();
        }
        assert_eq!(plan.services[0].slots, before);
    }
}
