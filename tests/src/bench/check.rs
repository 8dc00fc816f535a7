//! Whether the bench measures what it says: each case's action, output, target and counters.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use lb_common::headers::{Parsed, parse};
use lb_common::layout::Traffic;
use lb_common::testing::frame::BALANCER_MAC;

use super::Bench;
use super::cases::{Case, Fate};
use super::harness::{Called, Output, Timed, XDP_TX};
use super::subject::{Counts, mac};

/// How many packets of each case are checked one by one.
const PACKETS: u32 = 32;
/// How many packets of each case are checked in one run, by what was counted.
const PACKETS_IN_A_RUN: u32 = 2048;

impl Bench {
    /// Whether harness and program do with a case's packets what the case says, one by one and in a run.
    pub fn check(&mut self, case: &Case) -> Result<()> {
        self.check_each(case)?;
        self.check_run(case)
    }

    /// Sends the first packets, and compares all that can be seen of each.
    fn check_each(&mut self, case: &Case) -> Result<()> {
        for made in 0..PACKETS {
            let mut counts = self.subject.counts()?;
            let output = self.expect(case, made, &mut counts)?;
            self.harness.prepare(&case.stimulus, Called::UnderTest, made)?;
            let found = self.harness.once()?;
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
            self.expect(case, made, &mut counts)?;
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

    /// What must come out of the frame after `made` others. Counts it, too.
    fn expect(&self, case: &Case, made: u32, counts: &mut Counts) -> Result<Output> {
        let flow = case.stimulus.flow_after(made);
        let mut frame = case.stimulus.frame(flow).to_vec();
        match case.fate {
            Fate::Pass => {}
            Fate::Drop(counter) => counts.exceptional[counter as usize] += 1,
            Fate::Forward { service, new_flow } => {
                let client = client_of(&frame)?;
                let id = self.subject.target(service, client)?;
                let traffic = &mut counts.traffic[usize::from(id)];
                *traffic = traffic.plus(Traffic {
                    packets: 1,
                    bytes: frame.len() as u64,
                    new_flows: u64::from(new_flow),
                });
                frame[..6].copy_from_slice(&mac(id));
                frame[6..12].copy_from_slice(&BALANCER_MAC);
            }
        }
        Ok(Output {
            action: case.fate.action(),
            frame,
        })
    }
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
