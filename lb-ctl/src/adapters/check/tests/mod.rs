//! Checks against real servers on the loopback interface, which behave in every way that servers have.
//!
//! None of the expectations is about time: a check that should find something has time in plenty, one that should run out of
//! time has to do with a server that never ends.

mod client_port;
mod coordinator;
mod from_config;
mod scheduler;
pub(in crate::adapters) mod servers;
mod tcp;
pub(in crate::adapters) mod tls;
mod web;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Probe, Target, check};
use crate::core::health::{Failure, Outcome, Verdict};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// For checks that are to come to an end by themselves, on a busy machine.
const PLENTY: Duration = Duration::from_secs(30);
/// For checks of servers that never answer.
const LITTLE: Duration = Duration::from_millis(200);

const FAILING: Verdict = Verdict::Failed(Failure::Failing);
const SILENT: Verdict = Verdict::Failed(Failure::Silent);
const UNREACHABLE: Verdict = Verdict::Failed(Failure::Unreachable);

async fn find(probe: Probe, timeout: Duration) -> Outcome {
    let target = Target {
        address: LOOPBACK,
        source: None,
        timeout,
        probe,
    };
    // Twice the longest limit: whatever a server does, a check ends.
    tokio::time::timeout(PLENTY * 2, check(&target))
        .await
        .expect("the check ends")
        .expect("the machine can check")
}
