//! Balancers in networks that lose, delay, repeat and reorder, fall apart and heal; balancers that die, sleep, and come back.

mod properties;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU8,
    time::Duration,
};

use lb_common::hash;

use super::{
    Acceptor, Action, Advertisement, Audience, Cause, ChecksumForm, Conditions, Group, HOP_LIMIT, Policy,
    Received, Settings, State, Told, Transition, group_address,
};

/// What a network does to packets.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    /// Of a hundred packets it loses so many.
    loss: u64,
    /// But never more than this many in a row from one to another.
    row: u32,
    /// Of a hundred it repeats so many.
    repeats: u64,
    /// It delays them by up to so much, each by itself, so that they overtake each other.
    delay: Duration,
}

/// What it does at its best.
const CALM: Trouble = Trouble {
    loss: 0,
    row: 0,
    repeats: 0,
    delay: Duration::from_micros(100),
};

/// How a balancer is configured.
#[derive(Clone, Debug)]
struct Setup {
    policy: Policy,
    /// One for each member.
    settings: Vec<Settings>,
    /// With a peer: for how long it leaves a master alone of whose connections that tells nothing.
    grace: Option<Duration>,
}

struct Node {
    setup: Setup,
    /// `None` while it is dead.
    group: Option<Group>,
    conditions: Vec<Conditions>,
    /// Whether the addresses are on its interfaces. They stay there when it dies.
    holds: bool,
    asleep_until: Duration,
    transitions: Vec<Transition>,
}

/// A packet under way to a node.
struct Packet {
    to: usize,
    member: usize,
    from: IpAddr,
    bytes: Vec<u8>,
}

struct World {
    now: Duration,
    nodes: Vec<Node>,
    trouble: Trouble,
    /// By member and node, the part of the network that the node is in.
    parts: Vec<Vec<u8>>,
    packets: BTreeMap<(Duration, u64), Packet>,
    /// By member, sender and receiver, how many packets have been lost since one has arrived.
    lost: BTreeMap<(usize, usize, usize), u32>,
    sent: u64,
    seed: u64,
}

/// The address of a member's packets. They are in the opposite order for the second member, so that no node is the better one
/// everywhere.
fn source(member: usize, node: usize) -> IpAddr {
    let node = u8::try_from(node).unwrap();
    let host = if member == 0 { 1 + node } else { 250 - node };
    IpAddr::from([192, 0, u8::try_from(member).unwrap(), host])
}

fn vrid(member: usize) -> NonZeroU8 {
    NonZeroU8::new(u8::try_from(member + 1).unwrap()).unwrap()
}

fn addresses(member: usize) -> BTreeSet<IpAddr> {
    BTreeSet::from([IpAddr::from([198, 51, u8::try_from(member).unwrap(), 10])])
}

impl World {
    fn new(setups: &[Setup], seed: u64) -> Self {
        let node = |(number, setup): (usize, &Setup)| Node {
            conditions: (0..setup.settings.len())
                .map(|member| Conditions {
                    source: Some(source(member, number)),
                    ..Conditions::default()
                })
                .collect(),
            setup: setup.clone(),
            group: None,
            holds: false,
            asleep_until: Duration::ZERO,
            transitions: Vec::new(),
        };
        let members = setups.first().map_or(0, |setup| setup.settings.len());
        let mut world = Self {
            now: Duration::from_secs(1),
            nodes: setups.iter().enumerate().map(node).collect(),
            trouble: CALM,
            parts: vec![vec![0; setups.len()]; members],
            packets: BTreeMap::new(),
            lost: BTreeMap::new(),
            sent: 0,
            seed,
        };
        for node in 0..setups.len() {
            world.start(node);
        }
        world
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = hash::mix(self.seed.wrapping_add(1));
        self.seed % below
    }

    fn start(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.group.is_none() {
            let members = node.setup.settings.iter().copied().zip(node.conditions.clone());
            let mut group = Group::new(node.setup.policy, members, self.now);
            group.set_grace(node.setup.grace);
            node.group = Some(group);
            // A daemon takes off what an earlier run has left.
            node.holds = false;
            node.asleep_until = self.now;
        }
    }

    /// SIGKILL: nobody says goodbye.
    fn kill(&mut self, number: usize) {
        self.nodes[number].group = None;
    }

    fn stop(&mut self, number: usize) {
        self.with(number, Group::stop);
        self.kill(number);
    }

    fn hand_over(&mut self, number: usize) {
        self.with(number, |group, now| group.hand_over(now).unwrap_or_default());
    }

    fn set_conditions(&mut self, number: usize, member: usize, change: impl FnOnce(&mut Conditions)) {
        let conditions = &mut self.nodes[number].conditions[member];
        change(conditions);
        let conditions = conditions.clone();
        self.with(number, |group, now| group.conditions(member, conditions, now));
    }

    /// Its peer has told so much.
    fn tell(&mut self, number: usize, told: Told) {
        if let Some(group) = &mut self.nodes[number].group {
            group.set_told(told, self.now);
        }
    }

    fn sleep(&mut self, number: usize, duration: Duration) {
        self.nodes[number].asleep_until = self.now + duration;
    }

    /// Has a node's group do something, and carries out what comes of it.
    fn with(&mut self, number: usize, what: impl FnOnce(&mut Group, Duration) -> Vec<Action>) {
        let now = self.now;
        let Some(group) = &mut self.nodes[number].group else {
            return;
        };
        let before = group.state();
        let actions = what(group, now);
        let after = group.state();
        let mut changed = Vec::new();
        for action in actions {
            match action {
                Action::Advertise { member, priority } => self.send(number, member, priority),
                Action::Take => assert!(!std::mem::replace(&mut self.nodes[number].holds, true)),
                Action::Release => assert!(std::mem::replace(&mut self.nodes[number].holds, false)),
                Action::Announce => assert!(self.nodes[number].holds, "addresses of others are announced"),
                Action::Changed(transition) => changed.push(transition),
            }
        }
        let mut state = before;
        for transition in &changed {
            assert_eq!((transition.from, transition.at), (state, now));
            state = transition.to;
        }
        assert_eq!(state, after, "a change that is not told");
        let node = &mut self.nodes[number];
        node.transitions.extend(changed);
        assert_eq!(node.holds, after == State::Master);
        let due = node.group.as_ref().and_then(Group::due);
        assert!(due.is_some() || matches!(after, State::Fault | State::Init));
    }

    fn send(&mut self, from: usize, member: usize, priority: u8) {
        let advertisement = Advertisement {
            vrid: vrid(member),
            priority,
            interval: self.nodes[from].setup.settings[member].interval,
            addresses: addresses(member).into_iter().collect(),
        };
        let address = source(member, from);
        let bytes = advertisement.encode(address, group_address(true), ChecksumForm::Message);
        for to in 0..self.nodes.len() {
            if to == from || self.parts[member][from] != self.parts[member][to] {
                continue;
            }
            if self.loses(member, from, to) {
                continue;
            }
            let copies = 1 + u64::from(self.random(100) < self.trouble.repeats);
            for _ in 0..copies {
                let most = u64::try_from(self.trouble.delay.as_nanos()).unwrap();
                let delay = Duration::from_nanos(self.random(most) + 1);
                self.sent += 1;
                let packet = Packet {
                    to,
                    member,
                    from: address,
                    bytes: bytes.clone(),
                };
                self.packets.insert((self.now + delay, self.sent), packet);
            }
        }
    }

    fn loses(&mut self, member: usize, from: usize, to: usize) -> bool {
        let is_lost = self.random(100) < self.trouble.loss;
        let lost = self.lost.entry((member, from, to)).or_default();
        let is_lost = is_lost && *lost < self.trouble.row;
        *lost = if is_lost { *lost + 1 } else { 0 };
        is_lost
    }

    fn deliver(&mut self, packet: &Packet) {
        let Packet {
            to,
            member,
            from,
            ref bytes,
        } = *packet;
        let acceptor = Acceptor {
            vrid: vrid(member),
            addresses: addresses(member),
            audience: Audience::Multicast,
            checksum: ChecksumForm::Message,
        };
        let received = Received {
            from,
            to: group_address(true),
            hop_limit: HOP_LIMIT,
            bytes,
        };
        let heard = acceptor.accept(received, Some(source(member, to))).unwrap();
        self.with(to, |group, now| group.heard(member, heard, now));
    }

    /// When something happens next to a node by itself.
    fn due(&self, number: usize) -> Option<Duration> {
        let node = &self.nodes[number];
        let due = node.group.as_ref()?.due()?;
        Some(due.max(node.asleep_until))
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let arrival = self.packets.first_key_value().map(|((at, _), _)| *at);
            let due = (0..self.nodes.len())
                .filter_map(|number| Some((self.due(number)?, number)))
                .min();
            let next = arrival.into_iter().chain(due.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            // What has arrived comes before what is due.
            if arrival == Some(next)
                && let Some((key, packet)) = self.packets.pop_first()
            {
                let wakes = self.nodes[packet.to].asleep_until;
                if wakes > self.now {
                    self.packets.insert((wakes, key.1), packet);
                } else {
                    self.deliver(&packet);
                }
            } else if let Some((_, number)) = due {
                self.with(number, Group::pass);
                assert!(
                    self.due(number).is_none_or(|due| due > self.now),
                    "what was due is due again"
                );
            }
        }
        self.now = end;
    }

    fn state(&self, number: usize) -> Option<State> {
        self.nodes[number].group.as_ref().map(Group::state)
    }

    fn masters(&self) -> Vec<usize> {
        let is_master = |number: &usize| self.state(*number) == Some(State::Master);
        (0..self.nodes.len()).filter(is_master).collect()
    }

    fn priority(&self, number: usize) -> u8 {
        let group = self.nodes[number].group.as_ref();
        group
            .and_then(|group| group.member(0))
            .map_or(0, |member| member.priority)
    }

    /// How many transitions there have been so far.
    fn transitions(&self) -> usize {
        self.nodes.iter().map(|node| node.transitions.len()).sum()
    }

    /// Why a node is in its state.
    fn cause(&self, number: usize) -> Option<&Cause> {
        self.nodes[number].group.as_ref().map(Group::cause)
    }
}
