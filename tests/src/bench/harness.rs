//! The harness in the kernel.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use lb_common::harness::{FRAME_LENGTH, Stimulus, Variation, map, program};
use lb_ctl::adapters::datapath::TestRunOutput;

use super::cpu_time;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/harness"));
/// The names of the programs in the object file.
const HARNESS: &str = "harness";
const FLOOR: &str = "floor";

/// A program that the harness calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Called {
    Floor,
    UnderTest,
}

/// The loaded harness.
pub(super) struct Harness {
    ebpf: Ebpf,
}

/// What came of many frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timed {
    /// What was done with the last one.
    pub(super) action: u32,
    /// What all of them took.
    pub(super) time: Duration,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw<T>(T);

// SAFETY: `Stimulus` is `repr(C)`, `Copy`, of integers only and without padding, as a test in `lb-common` asserts.
unsafe impl Pod for Raw<Stimulus> {}
// SAFETY: as above, of `Variation`.
unsafe impl Pod for Raw<Variation> {}

impl Harness {
    /// Loads the harness, and the floor, around a program under test. With room for lists of so many variations together.
    pub(super) fn around(under_test: &ProgramFd, variations: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(map::VARIATIONS, variations)
            .load(OBJECT)
            .context("cannot load the harness")?;
        for name in [FLOOR, HARNESS] {
            let program: &mut Xdp = ebpf
                .program_mut(name)
                .with_context(|| no_such_thing(name))?
                .try_into()?;
            program
                .load()
                .with_context(|| format!("the kernel refused the program {name}"))?;
        }
        let floor = xdp(&ebpf, FLOOR)?.fd()?.try_clone()?;
        let map = ebpf
            .map_mut(map::PROGRAMS)
            .with_context(|| no_such_thing(map::PROGRAMS))?;
        let mut programs = ProgramArray::try_from(map)?;
        programs.set(program::FLOOR, &floor, 0)?;
        programs.set(program::UNDER_TEST, under_test, 0)?;
        Ok(Self { ebpf })
    }

    /// Sets which frames are made from now on, beginning behind the first `made` ones, and what they are for.
    pub(super) fn prepare(&mut self, stimulus: &Stimulus, called: Called, made: u32) -> Result<()> {
        let mut stimulus = *stimulus;
        stimulus.made = made;
        stimulus.program = match called {
            Called::Floor => program::FLOOR,
            Called::UnderTest => program::UNDER_TEST,
        };
        let map = self
            .ebpf
            .map_mut(map::STIMULUS)
            .with_context(|| no_such_thing(map::STIMULUS))?;
        Array::<_, Raw<Stimulus>>::try_from(map)?.set(0, Raw(stimulus), 0)?;
        Ok(())
    }

    /// Writes what differs in the frames of a [listed](Stimulus::listed) stimulus, in the order in which they are made.
    pub(super) fn write_list(&mut self, stimulus: &Stimulus, variations: &[Variation]) -> Result<()> {
        let map = self
            .ebpf
            .map_mut(map::VARIATIONS)
            .with_context(|| no_such_thing(map::VARIATIONS))?;
        let mut list = Array::<_, Raw<Variation>>::try_from(map)?;
        for (made, &variation) in (0..).zip(variations) {
            let index = stimulus.listed_after(made).context("the stimulus has no list")?;
            list.set(index, Raw(variation), 0)?;
        }
        Ok(())
    }

    /// Has the harness take the next frame for the first one of a run: the kernel gives each run a frame of its own.
    fn begin(&mut self) -> Result<()> {
        let map = self
            .ebpf
            .map_mut(map::STIMULUS)
            .with_context(|| no_such_thing(map::STIMULUS))?;
        let mut stimuli = Array::<_, Raw<Stimulus>>::try_from(map)?;
        let Raw(mut stimulus) = stimuli.get(&0, 0)?;
        stimulus.home = 0;
        stimuli.set(0, Raw(stimulus), 0)?;
        Ok(())
    }

    /// Makes one frame and shows what became of it.
    pub(super) fn once(&mut self) -> Result<TestRunOutput> {
        self.begin()?;
        // Room for what forwarding may add.
        let mut frame = vec![0; FRAME_LENGTH + 256];
        let result = self.program()?.test_run(TestRunOptions {
            data_in: Some(&[0; FRAME_LENGTH]),
            data_out: Some(&mut frame),
            ..TestRunOptions::default()
        })?;
        frame.truncate(result.data_size_out as usize);
        Ok(TestRunOutput {
            action: result.return_value,
            frame,
        })
    }

    /// Makes many frames and times them all.
    ///
    /// In CPU time of this thread: the kernel's own result is in whole nanoseconds per frame and may include time in which
    /// somebody else had the CPU.
    pub(super) fn run(&mut self, frames: u32) -> Result<Timed> {
        self.begin()?;
        let program = self.program()?;
        let begin = cpu_time()?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(&[0; FRAME_LENGTH]),
            repeat: frames,
            ..TestRunOptions::default()
        })?;
        let time = cpu_time()?.saturating_sub(begin);
        ensure!(
            !time.is_zero(),
            "the clock of this thread's CPU time does not advance"
        );
        Ok(Timed {
            action: result.return_value,
            time,
        })
    }

    pub(super) fn program(&self) -> Result<&Xdp> {
        xdp(&self.ebpf, HARNESS)
    }

    pub(super) fn floor(&self) -> Result<&Xdp> {
        xdp(&self.ebpf, FLOOR)
    }
}

fn xdp<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a Xdp> {
    Ok(ebpf
        .program(name)
        .with_context(|| no_such_thing(name))?
        .try_into()?)
}

fn no_such_thing(name: &str) -> String {
    format!("the harness's object has no {name}: it was built from other sources")
}
