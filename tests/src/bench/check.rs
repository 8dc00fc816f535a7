//! Whether the bench measures what it says: each case's action, output, target and counters.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::headers::{Parsed, parse};
use lb_common::process::{Action, process};

use super::Bench;
use super::cases::{Case, Fate, SlotState};
use super::harness::{Called, Output, Timed, XDP_DROP, XDP_PASS, XDP_TX};
use super::subject::Counts;
use crate::kernel_clock::ticks;

/// How many packets of each case are checked one by one.
const PACKETS: u32 = 32;
/// How many packets of each case are checked in one run, by what was counted.
const PACKETS_IN_A_RUN: u32 = 2048;
/// How many flows are opened before they are established: fewer than the table of half-open records holds.
const OPENED_AT_ONCE: u32 = 1 << 14;

impl Bench {
    /// Whether harness and program do with a case's packets what the case says, one by one and in a run. What the flows need
    /// to have a record is done before.
    pub fn check(&mut self, case: &Case) -> Result<()> {
        self.establish(case)?;
        self.check_each(case)?;
        self.check_run(case)
    }

    /// Has the program record the flows of a case, by sending it the first packets of each.
    fn establish(&mut self, case: &Case) -> Result<()> {
        let Some(opening) = &case.opening else {
            return Ok(());
        };
        let before = self.subject.counts()?;
        let mut made = 0;
        while made < case.flows {
            let flows = OPENED_AT_ONCE.min(case.flows - made);
            for stimulus in [opening, &case.stimulus] {
                self.harness.prepare(stimulus, Called::UnderTest, made)?;
                self.harness.run(flows)?;
            }
            made += flows;
        }
        let after = self.subject.counts()?;
        ensure!(
            before.exceptional == after.exceptional,
            "{case}: expected all flows to be recorded, found {after:?} after {before:?}"
        );
        Ok(())
    }

    /// Sends the first packets, and compares all that can be seen of each.
    fn check_each(&mut self, case: &Case) -> Result<()> {
        for made in 0..PACKETS {
            let counts = self.subject.counts()?;
            let (output, counts) = self.expect(case, made, &counts)?;
            self.harness.prepare(&case.stimulus, Called::UnderTest, made)?;
            let found = without_dropped(self.harness.once()?);
            ensure!(
                found == output,
                "{case}, packet {made}: expected {output:02x?}, found {found:02x?}"
            );
            let found = self.subject.counts()?;
            ensure!(
                found == counts,
                "{case}, packet {made}: expected the counters {counts:?}, found {found:?}"
            );
        }
        Ok(())
    }

    /// Sends many packets in one run, as timed ones are sent. Only if each of them was fresh and of the right flow has every
    /// target got its share.
    fn check_run(&mut self, case: &Case) -> Result<()> {
        let mut counts = self.subject.counts()?;
        for made in 0..PACKETS_IN_A_RUN {
            (_, counts) = self.expect(case, made, &counts)?;
        }
        self.harness.prepare(&case.stimulus, Called::UnderTest, 0)?;
        let Timed { action, .. } = self.harness.run(PACKETS_IN_A_RUN)?;
        ensure!(
            action == case.fate.action(),
            "{case}, {PACKETS_IN_A_RUN} packets: expected the action {} to the end, found {action}",
            case.fate.action()
        );
        let found = self.subject.counts()?;
        ensure!(
            found == counts,
            "{case}, {PACKETS_IN_A_RUN} packets: expected the counters {counts:?}, found {found:?}"
        );
        Ok(())
    }

    /// Lets the floor show a frame as the harness makes it, as the frame that comes after `made` others.
    pub fn frame(&mut self, case: &Case, made: u32) -> Result<Vec<u8>> {
        self.harness.prepare(&case.stimulus, Called::Floor, made)?;
        let Output { action, mut frame } = self.harness.once()?;
        ensure!(
            action == XDP_TX,
            "{case}: expected the floor to transmit, found the action {action}"
        );
        // The floor has swapped the MAC addresses.
        if let Some((addresses, _)) = frame.split_first_chunk_mut::<12>() {
            addresses.rotate_left(6);
        }
        Ok(frame)
    }

    /// What must come out of the frame after `made` others, and what the program must have counted then: by the same code on
    /// the host, and by what the case says.
    fn expect(&mut self, case: &Case, made: u32, counts: &Counts) -> Result<(Output, Counts)> {
        let flow = case.stimulus.flow_after(made);
        if let Some(opening) = &case.opening {
            self.on_host(&opening.frame(flow));
            self.on_host(&case.stimulus.frame(flow));
        }
        let before = self.subject.host_counts();
        let output = self.on_host(&case.stimulus.frame(flow));
        let after = self.subject.host_counts();
        let fate = match self.fate(case, &case.stimulus.frame(flow), &before, &after)? {
            Fate::Drop(counter) if output.action == XDP_TX => Fate::Answer(counter),
            fate => fate,
        };
        ensure!(
            output.action == case.fate.action() && fate == case.fate,
            "{case}, packet {made}: expected {:?}, found {fate:?}",
            case.fate
        );
        Ok((output, counts.plus(&before, &after)))
    }

    /// What the host's tables make of a frame.
    fn on_host(&mut self, frame: &[u8]) -> Output {
        self.subject.host.now = ticks();
        let mut frame = frame.to_vec();
        let action = match process(&mut frame, &self.subject.host) {
            Action::Pass => XDP_PASS,
            Action::Drop => XDP_DROP,
            Action::Transmit { .. } => XDP_TX,
        };
        self.subject.host.carry_out();
        without_dropped(Output { action, frame })
    }

    /// What has become of a frame, by what was counted.
    fn fate(&self, case: &Case, frame: &[u8], before: &Counts, after: &Counts) -> Result<Fate> {
        if before == after {
            return Ok(Fate::Pass);
        }
        let counters = lb_common::counter::Counter::ALL.iter();
        let mut counted = counters.zip(before.exceptional.iter().zip(&after.exceptional));
        if let Some((&counter, _)) = counted.find(|(_, (before, after))| before != after) {
            return Ok(Fate::Drop(counter));
        }
        let Fate::Forward { service, .. } = case.fate else {
            bail!("{case}: expected {:?}, found that it is forwarded", case.fate);
        };
        let slot = self.subject.slot(service, client_of(frame)?)?;
        let target = match case.slots {
            Some(SlotState::Unrecorded) => slot.settled,
            _ => slot.current,
        };
        let (before, after) = (
            before.traffic[usize::from(target)],
            after.traffic[usize::from(target)],
        );
        ensure!(
            after.packets == before.packets + 1,
            "{case}: expected a packet for target {target}, found none"
        );
        Ok(Fate::Forward {
            service,
            new_flow: after.new_flows != before.new_flows,
        })
    }
}

/// What a dropped frame looks like is of no interest.
fn without_dropped(output: Output) -> Output {
    let frame = match output.action {
        XDP_DROP => Vec::new(),
        _ => output.frame,
    };
    Output { frame, ..output }
}

/// The sender of a TCP packet.
fn client_of(frame: &[u8]) -> Result<SocketAddr> {
    let segment = match parse(frame) {
        Parsed::Segment(segment) => Some(segment),
        _ => None,
    };
    let segment = segment.context("a packet that is forwarded must be TCP")?;
    Ok(SocketAddr::new(segment.client.into(), segment.client_port))
}
