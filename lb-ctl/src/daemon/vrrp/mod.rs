//! VRRP: a thread of its own, so that nothing that the controller is busy with delays an advertisement; and a second one, its `hands`,
//! so that nothing that the kernel is busy with does.
//!
//! The threads own the instances, their sockets and the addresses that they carry. The controller tells them what is configured and how
//! many backends are healthy, and reads what they make known. A third one runs the operator's `programs`.

mod board;
mod driver;
mod hands;
mod hooks;
mod instance;
mod programs;
mod pulse;
mod running;
mod scripts;
#[cfg(test)]
mod testing;
mod thread;
mod timer;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::Context;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    adapters::api::server::{Answer, Refusal},
    core::{
        cause::chain,
        config::{Config, Vrrp},
        status::VrrpStatus,
        vrrp::{Script, Subject, Told},
    },
};
use board::{Board, Snapshot};
use programs::Notifier;
use scripts::Verdict;
use thread::Thread;

pub(super) use board::{Tenure, Tenures, Term};

/// For how long the thread that advertises may give no sign of life. It does nothing that takes long.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same for its hands, which have to wait for the kernel, but not for ever.
const HANDS_PATIENCE: Duration = Duration::from_secs(30);

/// For how long a balancer that hears a master of lower priority waits for a peer that tells nothing of its connections, before it replaces
/// that master. Two balancers that are well have met by then; a master that is not well has to be replaced.
const GRACE: Duration = Duration::from_secs(30);

/// How many backends of each service there are, and how many of them are healthy.
pub(super) type Healthy = BTreeMap<String, (usize, usize)>;

/// What instances can depend on besides interfaces.
#[derive(Clone, Debug, Default)]
struct Dependencies {
    healthy: Healthy,
    /// What scripts say; nothing of those that have not said anything yet.
    scripts: BTreeMap<Script, Verdict>,
    /// The scripts that instances depend on.
    tracked: BTreeSet<Script>,
    knowledge: Knowledge,
}

/// What the controller knows of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Knowledge {
    /// How much the peer has told of the connections to all VIPs that instances carry.
    pub(super) of_vips: BTreeMap<IpAddr, Told>,
    /// Who was master, as far as it had been noticed.
    pub(super) seen: Tenures,
}

impl Dependencies {
    /// These instances depend on scripts, and no others.
    fn track(&mut self, instances: &[Vrrp]) {
        self.tracked = scripts(instances);
        self.scripts.retain(|script, _| self.tracked.contains(script));
    }

    /// A script says something. Returns whether that matters: it may have been on its way while the configuration changed.
    fn take_in(&mut self, script: Script, verdict: Verdict) -> bool {
        let is_tracked = self.tracked.contains(&script);
        if is_tracked {
            self.scripts.insert(script, verdict);
        }
        is_tracked
    }
}

/// The scripts that these instances depend on.
fn scripts(instances: &[Vrrp]) -> BTreeSet<Script> {
    let tracks = instances.iter().flat_map(|instance| &instance.track);
    let scripts = tracks.filter_map(|track| match &track.subject {
        Subject::Script(script) => Some(script.clone()),
        Subject::Link(_) | Subject::Xdp | Subject::Service { .. } => None,
    });
    scripts.collect()
}

/// What the controller wants of the thread.
#[derive(Debug)]
enum Order {
    /// Follow these instances.
    Follow {
        instances: Vec<Vrrp>,
        /// The VIPs of all instances and services.
        shared: BTreeSet<IpAddr>,
        /// With a peer: for how long a master is left alone of whose connections that tells nothing.
        grace: Option<Duration>,
        /// Where to say when those that are gone have left their addresses.
        left: oneshot::Sender<Left>,
    },
    /// Hand one over, or all that are master.
    HandOver(Option<String>, Answer<Vec<String>>),
    /// The health of backends has changed.
    Healthy(Healthy),
    /// Something else has been told of connections, or something has been noticed.
    Know(Knowledge),
    /// A script says something else than before.
    Script(Script, Verdict),
    /// End, leaving the addresses to others.
    Stop,
}

/// Whether addresses have been left, or why not.
type Left = Result<(), String>;

/// The controller's end of the thread.
#[derive(Debug, Default)]
pub(super) struct Instances {
    thread: Option<Thread>,
    board: Board,
    healthy: Healthy,
    knowledge: Knowledge,
    told: hooks::Tally,
    followed: Followed,
}

/// Which configuration the instances follow.
#[derive(Debug, Default, PartialEq, Eq)]
enum Followed {
    /// They have not begun, and are not to yet.
    #[default]
    NotBegun,
    /// Not the one that they were told to, or nobody knows.
    Unknown,
    This {
        instances: Vec<Vrrp>,
        shared: BTreeSet<IpAddr>,
        grace: Option<Duration>,
    },
}

impl Instances {
    /// Follows the instances of this configuration. Returns when those that are no longer among them have left their addresses.
    pub(super) async fn follow(&mut self, config: &Config) -> anyhow::Result<()> {
        self.followed = Followed::Unknown;
        self.try_to_follow(config).await?;
        self.followed = Followed::of(config);
        Ok(())
    }

    /// Whether they follow another configuration than this, though they have begun.
    pub(super) fn lag_behind(&self, config: &Config) -> bool {
        self.followed != Followed::NotBegun && self.followed != Followed::of(config)
    }

    async fn try_to_follow(&mut self, config: &Config) -> anyhow::Result<()> {
        let dependencies = self.dependencies();
        let thread = match &mut self.thread {
            Some(thread) => thread,
            None if config.vrrp.is_empty() => return Ok(()),
            none => none.insert(Thread::start(
                self.board.clone(),
                dependencies,
                self.told.clone(),
            )?),
        };
        let (sender, left) = oneshot::channel();
        thread.order(Order::Follow {
            instances: config.vrrp.clone(),
            shared: config.shared_addresses(),
            grace: grace(config),
            left: sender,
        })?;
        thread.programs.follow(&config.vrrp)?;
        left.await
            .context("the VRRP thread has ended")?
            .map_err(anyhow::Error::msg)
            .context("leaving the addresses of VRRP instances")
    }

    fn dependencies(&self) -> Dependencies {
        Dependencies {
            healthy: self.healthy.clone(),
            knowledge: self.knowledge.clone(),
            ..Dependencies::default()
        }
    }

    /// Tells how many backends are healthy, if that is news.
    pub(super) fn set_healthy(&mut self, healthy: Healthy) -> anyhow::Result<()> {
        if self.healthy == healthy {
            return Ok(());
        }
        self.healthy = healthy;
        match &self.thread {
            Some(thread) => thread.order(Order::Healthy(self.healthy.clone())),
            None => Ok(()),
        }
    }

    /// Tells how much the peer has told of connections, if that is news: until it is everything, we leave masters alone.
    pub(super) fn set_knowledge(&mut self, knowledge: Knowledge) -> anyhow::Result<()> {
        if self.knowledge == knowledge {
            return Ok(());
        }
        self.knowledge = knowledge;
        match &self.thread {
            Some(thread) => thread.order(Order::Know(self.knowledge.clone())),
            None => Ok(()),
        }
    }

    /// Hands an instance over, or all that are master.
    pub(super) fn hand_over(&self, instance: Option<String>, answer: Answer<Vec<String>>) {
        // Whoever asked may have gone; that is their business.
        let Some(thread) = &self.thread else {
            let refusal = "there is nothing to hand over: no [[vrrp]] is configured";
            let _ = answer.send(Err(Refusal::Usage(refusal.into())));
            return;
        };
        let order = Order::HandOver(instance, answer);
        if let Err(mpsc::error::SendError(Order::HandOver(_, answer))) = thread.orders.send(order) {
            let _ = answer.send(Err(Refusal::Failed("the VRRP thread has ended".into())));
        }
    }

    /// What is known of the instances, in the order of the configuration.
    pub(super) fn status(&self) -> Vec<VrrpStatus> {
        self.board.status(&self.told)
    }

    /// Which addresses are ours, and since which time that we have become master. Between two looks a master may have lost them and
    /// have come by them again, which shows in that.
    pub(super) fn tenures(&self) -> Tenures {
        self.board.tenures()
    }

    /// Whether they are as they were when somebody looked.
    pub(super) fn are_as_seen(&self, seen: &Tenures) -> bool {
        self.board.are(seen)
    }

    /// Tells of changes of [tenures](Self::tenures), several at once if nobody looks.
    pub(super) fn changes(&self) -> watch::Receiver<Tenures> {
        self.board.changes()
    }

    /// Whether there is a thread, to which the addresses of instances belong.
    pub(super) fn is_running(&self) -> bool {
        self.thread.is_some()
    }

    /// Returns when the thread has ended though nobody has told it to, and says why; never, if there is none.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        let Some(thread) = &mut self.thread else {
            return std::future::pending().await;
        };
        let why = match (&mut thread.ended).await {
            Ok(Err(error)) => error,
            // It ends well when it is told to, and then nobody asks.
            Ok(Ok(())) | Err(_) => anyhow::anyhow!("it has panicked"),
        };
        why.context(
            "the VRRP thread has ended, so nobody advertises; addresses may have stayed on interfaces",
        )
    }

    /// What gives no sign of life any more, in words.
    pub(super) fn hangs(&self) -> Option<&'static str> {
        let thread = self.thread.as_ref()?;
        if thread.pulse.silence() >= PATIENCE {
            Some("the VRRP thread hangs: nobody advertises")
        } else if thread.hands_pulse.silence() >= HANDS_PATIENCE {
            Some(
                "the kernel does not answer about its network configuration: VRRP cannot put addresses on interfaces or take them off",
            )
        } else if thread.programs.have_ended() {
            Some("the thread of VRRP's scripts and hooks has ended: restart lb-ctl")
        } else {
            None
        }
    }

    /// Ends the thread, which leaves the addresses to others first.
    pub(super) async fn stop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        // If it has ended already it has said why.
        if thread.orders.send(Order::Stop).is_ok() {
            let joined = tokio::task::spawn_blocking(move || thread.handle.join()).await;
            match (joined, thread.ended.await) {
                (Ok(Ok(())), Ok(Ok(()))) => {}
                (_, Ok(Err(error))) => tracing::error!("VRRP has ended badly: {}", chain(error.as_ref())),
                _ => tracing::error!("the VRRP thread has panicked: addresses may have stayed on interfaces"),
            }
        }
        thread.programs.stop().await;
    }
}

/// With a peer: for how long a master is left alone of whose connections that tells nothing.
fn grace(config: &Config) -> Option<Duration> {
    config.peer.as_ref().map(|_| GRACE)
}

impl Followed {
    fn of(config: &Config) -> Self {
        Self::This {
            instances: config.vrrp.clone(),
            shared: config.shared_addresses(),
            grace: grace(config),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{programs::Programs, pulse::Pulse, *};
    use crate::core::config::examples::with_vrrp;

    fn with_instance() -> Config {
        with_vrrp("[[vrrp]]\nname = \"a\"\nvrid = 1\naddresses = [\"10.0.0.99\"]\n")
    }

    /// Instances with a thread that does this instead of VRRP.
    fn instances(
        thread: impl FnOnce(mpsc::UnboundedReceiver<Order>) -> anyhow::Result<()> + Send + 'static,
    ) -> Instances {
        let (orders, received) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let handle = std::thread::spawn(move || {
            let result = thread(received);
            let _ = end.send(result);
        });
        let thread = Thread {
            programs: Programs::start(orders.downgrade(), hooks::Tally::default()).unwrap(),
            orders,
            handle,
            ended,
            pulse: Pulse::new(),
            hands_pulse: Pulse::new(),
        };
        Instances {
            thread: Some(thread),
            ..Instances::default()
        }
    }

    #[tokio::test]
    async fn whoever_could_not_follow_is_told_again() {
        let mut instances = instances(|mut orders| {
            let mut answers = [Err("10.0.0.99 could not be taken off".to_owned()), Ok(())].into_iter();
            while let Some(Order::Follow { left, .. }) = orders.blocking_recv() {
                left.send(answers.next().unwrap_or(Ok(()))).unwrap();
            }
            Ok(())
        });
        assert!(
            !instances.lag_behind(&with_instance()),
            "they are not to begin yet"
        );
        let error = instances.follow(&with_instance()).await.unwrap_err();
        assert!(
            format!("{error:#}").contains("could not be taken off"),
            "{error:#}"
        );
        assert!(instances.lag_behind(&with_instance()));
        instances.follow(&with_instance()).await.unwrap();
        assert!(!instances.lag_behind(&with_instance()));
        // A reload that has failed before it came to this.
        assert!(instances.lag_behind(&with_vrrp("")));
    }

    #[tokio::test]
    async fn the_end_of_the_thread_is_noticed_with_its_reason() {
        let mut failing = instances(|_| Err(anyhow::anyhow!("no netlink")));
        let error = format!("{:#}", failing.ended().await);
        assert!(
            error.starts_with("the VRRP thread has ended") && error.ends_with("no netlink"),
            "{error}"
        );
        let mut panicking = instances(|_| panic!("a mistake of ours, made on purpose"));
        let error = format!("{:#}", panicking.ended().await);
        assert!(error.ends_with("it has panicked"), "{error}");
        // Nothing more than that comes of it at the end.
        panicking.stop().await;
        assert!(panicking.thread.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn whichever_thread_hangs_is_named() {
        let instances = instances(|mut orders| {
            orders.blocking_recv();
            Ok(())
        });
        let thread = instances.thread.as_ref().unwrap();
        assert_eq!(instances.hangs(), None);
        tokio::time::advance(PATIENCE).await;
        assert!(instances.hangs().unwrap().contains("nobody advertises"));
        thread.pulse.beat();
        assert_eq!(instances.hangs(), None, "the kernel may take longer");
        tokio::time::advance(HANDS_PATIENCE).await;
        thread.pulse.beat();
        assert!(instances.hangs().unwrap().contains("the kernel does not answer"));
        thread.hands_pulse.beat();
        assert_eq!(instances.hangs(), None);
        assert_eq!(Instances::default().hangs(), None);
    }
}
