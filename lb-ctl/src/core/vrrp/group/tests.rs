mod changes;
mod patience;
mod preemption;
mod rivals;
mod several;
mod takeover;

use std::num::NonZeroU8;

use super::*;

const INTERVAL: Duration = Duration::from_millis(100);

/// Their source, of which the last byte tells them apart.
fn address(host: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, host])
}

fn settings(priority: u8) -> Settings {
    Settings {
        priority: NonZeroU8::new(priority).unwrap(),
        interval: Interval::from_centiseconds(10).unwrap(),
    }
}

fn conditions(host: u8) -> Conditions {
    Conditions {
        source: Some(address(host)),
        ..Conditions::default()
    }
}

const POLICY: Policy = Policy {
    preempt: true,
    preempt_delay: Duration::ZERO,
    start_delay: Duration::ZERO,
    refresh: Duration::from_mins(1),
};

fn heard(host: u8, priority: u8) -> Heard {
    Heard {
        from: address(host),
        priority,
        interval: Interval::from_centiseconds(10).unwrap(),
        checksum: super::super::ChecksumForm::Message,
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What actions come to, in words.
fn words(actions: &[Action]) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Advertise { member, priority } => format!("advertise {member}: {priority}"),
        Action::Take => "take".into(),
        Action::Announce => "announce".into(),
        Action::Release => "release".into(),
        Action::Changed(Transition { from, to, cause, .. }) => format!("{from} to {to}: {cause}"),
    };
    actions.iter().map(word).collect()
}

/// A backup of this priority at host 2, begun at 0.
fn backup(policy: Policy, priority: u8) -> Group {
    let mut group = Group::new(policy, [(settings(priority), conditions(2))], ms(0));
    assert_eq!(words(&group.pass(ms(0))), ["init to backup: started"]);
    group
}

/// A master of this priority at host 2, since the time returned.
fn master(policy: Policy, priority: u8) -> (Group, Duration) {
    let mut group = backup(policy, priority);
    let now = group.due().unwrap();
    group.pass(now);
    assert_eq!(group.state(), State::Master);
    (group, now)
}
