//! The bench: nanoseconds per packet of the XDP program, by the method of DESIGN.md section 9.
//!
//! Frames are made by a harness in the kernel (`lb_common::harness`), so that the program under test meets a fresh packet
//! of another flow each time. The same harness around a program that only swaps MAC addresses is the *floor*; what a case
//! takes beyond the floor of the same round is its *net* time. On a machine that others use too, the two vary
//! together: compare ratios, not nanoseconds.

pub mod cases;
mod check;
mod controller;
mod harness;
mod report;
mod statistics;
mod stream;
mod subject;
mod tables;

use std::collections::{BTreeMap, btree_map::Entry};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_common::harness::{Stimulus, Variation};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, Timespec, clock_gettime};

use cases::{Case, Forward};
use harness::{Called, Harness};
use report::{Figures, Instructions};
use statistics::Sample;
use subject::Subject;

use crate::xdp_action;

pub use controller::{Options as ControllerOptions, run as run_controller};
pub use stream::{Options as StreamOptions, run as run_stream};
pub use tables::{Options as TablesOptions, run as run_tables};

/// Packets in each timed run: some 10 ms.
const PACKETS: u32 = 1 << 17;
/// Packets before each timed run: enough to bring all slots of a service back into the CPU's caches.
const PACKETS_TO_WARM_UP: u32 = 1 << 16;

/// How the bench is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each case is timed.
    pub rounds: u32,
    /// Only cases with this in their name, such as `dsr IPv4` or `flows 1024`.
    pub only: Option<String>,
    /// One line of JSON for each case instead of a table.
    pub json: bool,
}

/// The harness with the program under test in it.
pub struct Bench {
    subject: Subject,
    harness: Harness,
    /// The packets of cases that are about answers, by the case's name.
    answers: BTreeMap<String, Answers>,
}

/// What backends answer to clients.
struct Answers {
    stimulus: Stimulus,
    /// What is different in them, in the order in which they are made.
    variations: Vec<Variation>,
}

/// Measures the cases and prints what came out.
pub fn run(options: &Options) -> Result<()> {
    let mut cases = cases::all();
    if let Some(only) = &options.only {
        cases.retain(|case| case.to_string().contains(only));
        ensure!(!cases.is_empty(), "no case has \"{only}\" in its name");
    }
    // Each way of forwarding and number of flows has tables of its own, so that those hold no records but of so many flows.
    let mut benches = BTreeMap::new();
    for case in &cases {
        if let Entry::Vacant(place) = benches.entry((case.forward, case.flows)) {
            place.insert(Bench::load(Some(case.forward), case.flows)?);
        }
    }
    for case in &cases {
        of(case, &mut benches)?.check(case)?;
    }
    // After everything that may run elsewhere.
    stay_on_one_cpu()?;
    let mut samples = vec![Vec::new(); cases.len()];
    for round in 0..options.rounds {
        for (case, samples) in cases.iter().zip(&mut samples) {
            samples.push(of(case, &mut benches)?.sample(case, round)?);
        }
    }
    let (_, any) = benches.first_key_value().context("there are no cases")?;
    let instructions = any.instructions()?;
    let figures: Vec<_> = cases
        .iter()
        .zip(&samples)
        .map(|(case, samples)| Figures::of(case, samples, &instructions))
        .collect();
    if options.json {
        report::print_json(&figures)
    } else {
        report::print_table(&figures, &instructions, options.rounds);
        Ok(())
    }
}

/// The bench whose tables are for a case.
fn of<'a>(case: &Case, benches: &'a mut BTreeMap<(Forward, u32), Bench>) -> Result<&'a mut Bench> {
    benches
        .get_mut(&(case.forward, case.flows))
        .with_context(|| format!("{case}: there are no tables for so many flows"))
}

impl Bench {
    /// Loads the balancer's program, fills its tables, and loads the harness around it. For cases of at most so many flows that are
    /// forwarded in this way, or in any.
    pub fn load(forward: Option<Forward>, flows: u32) -> Result<Self> {
        let subject = Subject::load(&cases::services(forward), flows)?;
        let harness = Harness::around(subject.datapath.program()?.fd()?, cases::LISTS * flows)?;
        Ok(Self {
            subject,
            harness,
            answers: BTreeMap::new(),
        })
    }

    /// Times the floor and then the case: next to each other, what slows the machine down for a while slows both.
    fn sample(&mut self, case: &Case, round: u32) -> Result<Sample> {
        let floor = self.time(case, Called::Floor, round)?;
        let ns = self.time(case, Called::UnderTest, round)?;
        Ok(Sample { ns, floor })
    }

    /// Nanoseconds per packet. An error if the program did not do with every packet what the case is about.
    fn time(&mut self, case: &Case, called: Called, round: u32) -> Result<f64> {
        // Each round goes on where the last one stopped.
        let made = round.wrapping_mul(PACKETS + PACKETS_TO_WARM_UP);
        self.harness.prepare(&self.stimulus(case)?, called, made)?;
        self.harness.run(PACKETS_TO_WARM_UP)?;
        let before = self.subject.counts()?;
        let timed = self.harness.run(PACKETS)?;
        let after = self.subject.counts()?;

        let (action, counted) = match called {
            Called::Floor => (xdp_action::TX, 0),
            Called::UnderTest => (case.fate.action(), case.fate.counted() * u64::from(PACKETS)),
        };
        ensure!(
            timed.action == action,
            "{case}: expected the action {action} to the end, found {}",
            timed.action
        );
        let found = after.total().wrapping_sub(before.total());
        ensure!(
            found == counted,
            "{case}: expected {counted} of {PACKETS} packets to be counted, found {found}; \
             does somebody else use this program?"
        );
        Ok(timed.time.as_secs_f64() * 1e9 / f64::from(PACKETS))
    }

    fn instructions(&self) -> Result<Instructions> {
        Ok(Instructions {
            balancer: report::Program::of(&self.subject.datapath.program()?.info()?),
            floor: report::Program::of(&self.harness.floor()?.info()?),
            harness: report::Program::of(&self.harness.program()?.info()?),
        })
    }
}

/// Keeps this thread on one CPU, the last that it may use: the first ones get most interrupts.
fn stay_on_one_cpu() -> Result<()> {
    let allowed = sched_getaffinity(None).context("cannot find out on which CPUs this thread may run")?;
    let last = (0..CpuSet::MAX_CPU)
        .rfind(|&cpu| allowed.is_set(cpu))
        .context("this thread may run on no CPU")?;
    let mut only = CpuSet::new();
    only.set(last);
    sched_setaffinity(None, &only).with_context(|| format!("cannot stay on CPU {last}"))
}

/// The CPU time of this thread: what somebody else has had the CPU for is not in it.
fn cpu_time() -> Result<Duration> {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    Ok(Duration::new(tv_sec.try_into()?, tv_nsec.try_into()?))
}
