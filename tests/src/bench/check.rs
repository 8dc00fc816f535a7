//! Whether the bench measures what it says: each case's action, output, target and counters.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::harness::{FRAME_LENGTH, Stimulus, Variation};
use lb_common::headers::{Parsed, Segment, parse};
use lb_common::layout::FlowRecord;
use lb_common::testing::Frame;
use lb_ctl::adapters::datapath::TestRunOutput;

use super::cases::{Case, Fate, Forward, SlotState, answers};
use super::harness::{Called, Timed};
use super::subject::Counts;
use super::{Answers, Bench};
use crate::agreement::{self, without_dropped};
use crate::kernel_clock::ticks;
use crate::xdp_action;

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

    /// Has the program record the flows of a case, by sending it the first packets of each, and makes a list of the answers, if the
    /// case is about these.
    pub fn establish(&mut self, case: &Case) -> Result<()> {
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
        if case.answers {
            self.list_answers(case)?;
        }
        Ok(())
    }

    /// Lists what the backends answer, to the ports that the program has given to the flows.
    fn list_answers(&mut self, case: &Case) -> Result<()> {
        let mut variations = Vec::new();
        let mut template = None;
        for made in 0..case.flows {
            let segment = segment_of(&case.stimulus.frame(case.stimulus.flow_after(made)))?;
            let (target, FlowRecord { port, .. }) = self.subject.adopt(&segment)?;
            let backend = SocketAddr::new(target.backend().into(), target.port());
            variations.push(Variation {
                address: last_bytes(backend.ip()),
                port: port.to_be_bytes(),
                reserved: [0; 2],
            });
            // All are alike but for what is in the list.
            template.get_or_insert_with(|| Frame::new(backend, SocketAddr::new(segment.vip.into(), port)));
        }
        let template = template.with_context(|| format!("{case}: there are no flows"))?;
        let stimulus = answers(&template, case.family.unwrap_or_default(), case.flows);
        self.harness.write_list(&stimulus, &variations)?;
        self.answers
            .insert(case.to_string(), Answers { stimulus, variations });
        Ok(())
    }

    /// What the harness makes the packets of a case of.
    pub(super) fn stimulus(&self, case: &Case) -> Result<Stimulus> {
        if case.answers {
            Ok(self.answers(case)?.stimulus)
        } else {
            Ok(case.stimulus)
        }
    }

    /// The frame of a case that comes after `made` others, as the harness should make it.
    pub fn expected_frame(&self, case: &Case, made: u32) -> Result<[u8; FRAME_LENGTH]> {
        if case.answers {
            let Answers { stimulus, variations } = self.answers(case)?;
            let variation = variations.get((made % case.flows) as usize);
            Ok(stimulus.frame_with(*variation.context("the list has an answer of each flow")?))
        } else {
            Ok(case.stimulus.frame(case.stimulus.flow_after(made)))
        }
    }

    fn answers(&self, case: &Case) -> Result<&Answers> {
        let answers = self.answers.get(&case.to_string());
        answers.with_context(|| format!("{case}: its flows have not been established"))
    }

    /// Sends the first packets, and compares all that can be seen of each.
    fn check_each(&mut self, case: &Case) -> Result<()> {
        for made in 0..PACKETS {
            let counts = self.subject.counts()?;
            let (output, counts) = self.expect(case, made, &counts)?;
            self.harness
                .prepare(&self.stimulus(case)?, Called::UnderTest, made)?;
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
        self.harness
            .prepare(&self.stimulus(case)?, Called::UnderTest, 0)?;
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
        self.harness.prepare(&self.stimulus(case)?, Called::Floor, made)?;
        let TestRunOutput { action, mut frame } = self.harness.once()?;
        ensure!(
            action == xdp_action::TX,
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
    fn expect(&mut self, case: &Case, made: u32, counts: &Counts) -> Result<(TestRunOutput, Counts)> {
        let flow = case.stimulus.flow_after(made);
        if case.forward == Forward::Nat {
            self.subject.adopt(&segment_of(&case.stimulus.frame(flow))?)?;
        } else if let Some(opening) = &case.opening {
            self.on_host(&opening.frame(flow));
            self.on_host(&case.stimulus.frame(flow));
        }
        let frame = self.expected_frame(case, made)?;
        let before = self.subject.host_counts();
        let output = self.on_host(&frame);
        let after = self.subject.host_counts();
        let fate = match self.fate(case, &frame, &before, &after)? {
            Fate::Drop(counter) if output.action == xdp_action::TX => Fate::Answer(counter),
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
    fn on_host(&mut self, frame: &[u8]) -> TestRunOutput {
        self.subject.host.now = ticks();
        let (_, output) = agreement::on_host(&mut self.subject.host, frame);
        output
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
        let segment = segment_of(frame)?;
        let client = SocketAddr::new(segment.client.into(), segment.client_port);
        let slot = self.subject.slot(service, client)?;
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

/// The segment in a frame.
fn segment_of(frame: &[u8]) -> Result<Segment> {
    match parse(frame) {
        Parsed::Segment(segment) => Ok(segment),
        _ => bail!("a packet that is forwarded must be TCP"),
    }
}

/// The part of an address that the harness can vary.
fn last_bytes(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
    }
}
