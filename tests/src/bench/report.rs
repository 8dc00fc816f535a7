//! What came out, for people and for programs.
#![allow(clippy::print_stdout, reason = "this is the bench's result")]

use anyhow::Result;
use aya::programs::ProgramInfo;
use serde::Serialize;

use super::cases::Case;
use super::statistics::{Quartiles, Sample};

/// How large a loaded program is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    /// BPF instructions, after the verifier has removed what cannot be reached and put its own in.
    instructions: u32,
    /// Instructions that the verifier looked at, on all paths together.
    verified: u32,
    /// Bytes of machine code.
    machine_code: u32,
}

/// The sizes of all programs that took part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instructions {
    pub(super) balancer: Program,
    pub(super) floor: Program,
    pub(super) harness: Program,
}

/// One case's result. The field names are a contract: each is a key of the JSON output.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    bench: &'static str,
    mode: &'static str,
    family: Option<u8>,
    slots: Option<String>,
    flows: u32,
    ns: f64,
    floor_ns: f64,
    net_ns: f64,
    spread_ns: f64,
    /// Net time as a multiple of the floor.
    floors: f64,
    /// Of the program under test, as [`Program`] has them.
    instructions: u32,
    verified_instructions: u32,
    machine_code_bytes: u32,
    /// Of the programs that the floor consists of.
    floor_instructions: u32,
    harness_instructions: u32,
}

impl Program {
    pub(super) fn of(info: &ProgramInfo) -> Self {
        /// Length of an instruction, in bytes.
        const INSTRUCTION: u32 = 8;
        Self {
            instructions: info.size_translated().unwrap_or(0) / INSTRUCTION,
            verified: info.verified_instruction_count().unwrap_or(0),
            machine_code: info.size_jitted(),
        }
    }
}

impl Figures {
    pub(super) fn of(case: &Case, samples: &[Sample], sizes: &Instructions) -> Self {
        let ns = Quartiles::of(samples.iter().map(|sample| sample.ns));
        let floor = Quartiles::of(samples.iter().map(|sample| sample.floor));
        // Of each round by itself, so that what slows a whole round down cancels out.
        let net = Quartiles::of(samples.iter().map(|sample| sample.ns - sample.floor));
        let Program {
            instructions,
            verified,
            machine_code,
        } = sizes.balancer;
        Self {
            bench: "datapath",
            mode: case.mode,
            family: case.family,
            slots: case.slots.map(|slots| slots.to_string()),
            flows: case.flows,
            ns: rounded(ns.median),
            floor_ns: rounded(floor.median),
            net_ns: rounded(net.median),
            spread_ns: rounded(net.spread()),
            floors: rounded(net.median / floor.median),
            instructions,
            verified_instructions: verified,
            machine_code_bytes: machine_code,
            floor_instructions: sizes.floor.instructions,
            harness_instructions: sizes.harness.instructions,
        }
    }
}

/// The memory of one table. The field names are a contract: each is a key of the JSON output.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TableFigures {
    bench: &'static str,
    table: String,
    entries: u32,
    pub(super) bytes: u64,
}

/// The time to write a ring. The field names are a contract: each is a key of the JSON output.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RingFigures {
    bench: &'static str,
    ring_slots: usize,
    us: f64,
    spread_us: f64,
    runs: u32,
}

impl TableFigures {
    pub(super) fn new(table: &str, entries: u32, bytes: u64) -> Self {
        Self {
            bench: "tables",
            table: table.to_owned(),
            entries,
            bytes,
        }
    }
}

impl RingFigures {
    /// Of a ring of so many slots that was written `runs` times, in so many microseconds.
    pub(super) fn new(ring_slots: usize, microseconds: &Quartiles, runs: u32) -> Self {
        Self {
            bench: "tables",
            ring_slots,
            us: rounded(microseconds.median),
            spread_us: rounded(microseconds.spread()),
            runs,
        }
    }
}

/// What the controller costs. The field names are a contract: each is a key of the JSON output.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ControllerFigures {
    pub(super) bench: &'static str,
    /// How many (service, backend) pairs there are.
    pub(super) backends: usize,
    /// From the start of the process until it says that it is ready, and until all backends are found to be up.
    pub(super) ready_ms: f64,
    pub(super) all_up_ms: f64,
    /// From the start of `lb-ctl reload` to its end, and the interquartile range of that.
    pub(super) reload_ms: f64,
    pub(super) reload_spread_ms: f64,
    /// Resident memory in bytes, after the reloads and at most.
    pub(super) memory: u64,
    pub(super) memory_peak: u64,
    pub(super) checks_per_second: f64,
    /// The share of one core that the process takes meanwhile.
    pub(super) cpu_share: f64,
}

pub(super) fn print_controller_json(figures: &ControllerFigures) -> Result<()> {
    println!("{}", serde_json::to_string(figures)?);
    Ok(())
}

pub(super) fn print_controller(figures: &ControllerFigures) {
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    println!(
        "With {} backends in all services:\n\
         start    ready after {:.0} ms, all backends up after {:.0} ms\n\
         reload   {:.0} ms, spread {:.0} ms\n\
         memory   {} MB, at most {} MB\n\
         checks   {:.0} a second take {:.1} % of a core",
        figures.backends,
        figures.ready_ms,
        figures.all_up_ms,
        figures.reload_ms,
        figures.reload_spread_ms,
        megabytes(figures.memory),
        megabytes(figures.memory_peak),
        figures.checks_per_second,
        figures.cpu_share * 100.0,
    );
}

/// What the state stream costs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StreamFigures {
    pub(super) bench: &'static str,
    /// How many records the owner has at first.
    pub(super) records: u32,
    /// The seconds until the follower has all of them.
    pub(super) all_s: f64,
    /// In how many messages and bytes they are told.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// The share of one core that the owner's thread takes while nothing happens.
    pub(super) idle_cpu_share: f64,
    /// The same while so many connections come a second, and the delay of most and of the last one.
    pub(super) rate: u32,
    pub(super) cpu_share: f64,
    pub(super) delay_ms: f64,
    pub(super) longest_delay_ms: f64,
}

pub(super) fn print_stream_json(figures: &StreamFigures) -> Result<()> {
    println!("{}", serde_json::to_string(figures)?);
    Ok(())
}

pub(super) fn print_stream(figures: &StreamFigures) {
    println!(
        "{} records are with the follower after {:.2} s: {} messages, {} bytes\n\
         while nothing happens, telling takes {:.2} % of a core\n\
         {} connections a second take {:.2} %, and are told after {:.1} ms, at most {:.1} ms",
        figures.records,
        figures.all_s,
        figures.messages,
        figures.bytes,
        figures.idle_cpu_share * 100.0,
        figures.rate,
        figures.cpu_share * 100.0,
        figures.delay_ms,
        figures.longest_delay_ms,
    );
}

/// To two decimals: more would be noise.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

pub(super) fn print_tables_json(tables: &[TableFigures], ring: &RingFigures) -> Result<()> {
    for table in tables {
        println!("{}", serde_json::to_string(table)?);
    }
    println!("{}", serde_json::to_string(ring)?);
    Ok(())
}

pub(super) fn print_tables(tables: &[TableFigures], ring: &RingFigures) {
    println!("{:<18} {:>9} {:>12}", "table", "entries", "bytes");
    for table in tables {
        println!("{:<18} {:>9} {:>12}", table.table, table.entries, table.bytes);
    }
    let total: u64 = tables.iter().map(|table| table.bytes).sum();
    println!(
        "{:<18} {:>9} {:>12}, {} MB\n",
        "all",
        "",
        total,
        total.div_ceil(1_000_000)
    );
    println!(
        "{:.0} us to move all {} slots of a ring: median of {} runs, spread {:.0} us.",
        ring.us, ring.ring_slots, ring.runs, ring.spread_us
    );
}

pub(super) fn print_json(figures: &[Figures]) -> Result<()> {
    for figures in figures {
        println!("{}", serde_json::to_string(figures)?);
    }
    Ok(())
}

pub(super) fn print_table(figures: &[Figures], instructions: &Instructions, rounds: u32) {
    println!(
        "{:<16} {:>6}  {:<10} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "mode", "family", "slots", "flows", "ns", "floor", "net", "spread", "floors"
    );
    for case in figures {
        println!(
            "{:<16} {:>6}  {:<10} {:>8} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.2}",
            case.mode,
            case.family
                .map_or_else(|| "-".to_owned(), |family| family.to_string()),
            case.slots.as_deref().unwrap_or("-"),
            case.flows,
            case.ns,
            case.floor_ns,
            case.net_ns,
            case.spread_ns,
            case.floors,
        );
    }
    println!(
        "\nNanoseconds per packet, medians of {rounds} rounds. net: beyond the floor of the same round, which is \
         the same\nharness around a program that only swaps MAC addresses. spread: interquartile range of net. \
         floors: net / floor.\n"
    );
    println!(
        "{:<16} {:>12} {:>12} {:>12}",
        "program", "instructions", "verified", "machine code"
    );
    let programs = [
        ("balancer", instructions.balancer),
        ("floor", instructions.floor),
        ("harness", instructions.harness),
    ];
    for (name, program) in programs {
        println!(
            "{name:<16} {:>12} {:>12} {:>6} bytes",
            program.instructions, program.verified, program.machine_code
        );
    }
}
