//! Decisions: how they combine, and that they survive being kept.

use lb_common::layout::TargetName;
use proptest::prelude::*;

use super::*;
use crate::core::config::{Config, HostDefaults, MAX_WEIGHT, parse};

const NOW: u64 = 1_700_000_000_000;

fn command(service: Option<&str>, action: Action) -> Command {
    Command {
        backend: "b".to_owned(),
        service: service.map(str::to_owned),
        action,
        force: false,
    }
}

const DRAIN: Action = Action::Drain {
    deadline_ms: None,
    soft: false,
};

fn after(commands: &[(Option<&str>, Action)]) -> Decisions {
    commands
        .iter()
        .fold(Decisions::default(), |decisions, (service, action)| {
            decisions.after(&command(*service, *action), NOW).unwrap()
        })
}

fn admin(decisions: &Decisions, service: &str) -> Admin {
    decisions.orders(service, "b", NOW).admin
}

#[test]
fn a_decision_about_one_service_counts_there_and_nowhere_else() {
    let decisions = after(&[(None, DRAIN), (Some("s"), Action::Undrain)]);
    assert_eq!(admin(&decisions, "s"), Admin::Enabled);
    assert_eq!(admin(&decisions, "t"), Admin::Draining);
    assert_eq!(
        decisions.orders("t", "another", NOW),
        Orders::default(),
        "nobody has spoken of it"
    );
    let decisions = after(&[(Some("s"), Action::Disable), (None, Action::Weight(Some(7)))]);
    assert_eq!(admin(&decisions, "s"), Admin::Disabled);
    assert_eq!(decisions.orders("s", "b", NOW).weight, Some(7));
    assert_eq!(admin(&decisions, "t"), Admin::Enabled);
}

#[test]
fn the_newest_word_about_every_service_takes_back_those_about_one() {
    let decisions = after(&[
        (Some("s"), Action::Weight(Some(3))),
        (Some("s"), Action::Disable),
        (None, DRAIN),
        (None, Action::Weight(None)),
    ]);
    assert_eq!(
        decisions.orders("s", "b", NOW),
        Orders {
            admin: Admin::Draining,
            ..Orders::default()
        }
    );
}

#[test]
fn what_was_decided_about_a_backend_holds_when_it_has_got_another_name() {
    let before = after(&[
        (None, Action::Disable),
        (Some("s"), DRAIN),
        (Some("t"), Action::Weight(Some(3))),
    ]);
    let renamed = before.after_renaming("b", "c").unwrap();
    let moved = renamed.without("b").unwrap();
    for service in ["s", "t", "u"] {
        let orders = before.orders(service, "b", NOW);
        assert_eq!(renamed.orders(service, "c", NOW), orders, "{service}");
        assert_eq!(renamed.orders(service, "b", NOW), orders, "{service}");
        assert_eq!(moved.orders(service, "c", NOW), orders, "{service}");
    }
    assert!(!moved.mentions("b", None), "nobody would take it back");
    assert_eq!(moved.without("b"), None);
    assert_eq!(renamed.after_renaming("b", "c"), None, "once is enough");
    assert_eq!(before.after_renaming("stranger", "b"), None);

    // What has been decided about the new name is newer.
    let about_the_new_one = Command {
        backend: "c".to_owned(),
        ..command(Some("s"), DRAIN)
    };
    let decided = before.after(&about_the_new_one, NOW).unwrap();
    let renamed = decided.after_renaming("b", "c").unwrap();
    assert_eq!(renamed.orders("u", "c", NOW).admin, Admin::Enabled);
    assert_eq!(renamed.orders("s", "c", NOW).admin, Admin::Draining);
    assert_eq!(renamed.orders("t", "c", NOW).weight, Some(3));
}

#[test]
fn who_is_leaving_gets_nothing_new_and_loses_what_is_left_when_that_was_decided() {
    let of = |commands: &[(Option<&str>, Action)], now| after(commands).orders("s", "b", now).of_leaving();
    let draining = Orders {
        admin: Admin::Draining,
        ..Orders::default()
    };
    assert_eq!(of(&[], NOW), draining);
    assert_eq!(of(&[(None, Action::Weight(Some(3)))], NOW), draining);
    let until = Action::Drain {
        deadline_ms: Some(1000),
        soft: true,
    };
    let with_deadline = Orders {
        deadline: Some(NOW + 1000),
        ..draining
    };
    assert_eq!(of(&[(None, until)], NOW), with_deadline);
    assert_eq!(of(&[(None, until)], NOW + 1000).admin, Admin::Disabled);
    assert_eq!(of(&[(Some("s"), Action::Disable)], NOW).admin, Admin::Disabled);
}

#[test]
fn whoever_is_leaving_may_be_a_backend_under_another_name() {
    let config = config();
    let left = |service: usize, address: [u8; 4], port| {
        let left = TargetName::new(0, "old", address.into(), port).unwrap();
        stands_on_as(&config.services[service], &left).map(str::to_owned)
    };
    assert_eq!(left(0, [10, 0, 0, 1], 1), Some("a".to_owned()));
    assert_eq!(left(1, [10, 0, 0, 1], 2), Some("a".to_owned()));
    assert_eq!(left(1, [10, 0, 0, 1], 1), None, "another port");
    assert_eq!(left(0, [10, 0, 0, 2], 1), None, "another address");
}

#[test]
fn only_what_lets_no_new_flows_to_a_backend_keeps_them_away() {
    let keep_away = |action, now| {
        after(&[(None, action)])
            .orders("s", "b", now)
            .keep_new_flows_away()
    };
    for action in [DRAIN, Action::Disable, Action::Weight(Some(0))] {
        assert!(keep_away(action, NOW), "{action:?}");
    }
    let until = Action::Drain {
        deadline_ms: Some(1000),
        soft: false,
    };
    assert!(keep_away(until, NOW + 1000), "its deadline has passed");
    for action in [Action::Enable, Action::Weight(Some(3)), Action::Weight(None)] {
        assert!(!keep_away(action, NOW), "{action:?}");
    }
}

#[test]
fn undrain_does_not_enable_who_is_disabled() {
    let decisions = after(&[(None, Action::Disable)]);
    for service in [None, Some("s")] {
        let refused = decisions
            .after(&command(service, Action::Undrain), NOW)
            .unwrap_err();
        assert!(refused.to_string().contains("lb-ctl enable b"), "{refused}");
    }
    // Where it is only drained, it does what it says.
    let decisions = after(&[
        (None, Action::Disable),
        (Some("s"), DRAIN),
        (None, Action::Undrain),
    ]);
    assert_eq!(
        (admin(&decisions, "s"), admin(&decisions, "t")),
        (Admin::Enabled, Admin::Disabled)
    );
    assert_eq!(after(&[(None, Action::Undrain)]), Decisions::default());
}

#[test]
fn a_drain_ends_at_its_deadline_which_a_second_drain_leaves_alone() {
    let deadline = Action::Drain {
        deadline_ms: Some(5000),
        soft: false,
    };
    let decisions = after(&[(None, deadline), (None, DRAIN)]);
    let at = |time| decisions.orders("s", "b", time);
    assert_eq!(at(NOW + 4999).admin, Admin::Draining);
    assert_eq!(at(NOW + 4999).deadline, Some(NOW + 5000));
    assert_eq!(at(NOW + 5000).admin, Admin::Disabled);
    assert_eq!(decisions.next_deadline(NOW), Some(NOW + 5000));
    assert_eq!(decisions.next_deadline(NOW + 5000), None);
    let back = decisions
        .after(&command(None, Action::Undrain), NOW + 9000)
        .unwrap();
    assert_eq!(back, Decisions::default());
}

fn config() -> Config {
    let service = |name: &str, port: u16| {
        format!(
            "[[service]]\nname = \"{name}\"\nvip = \"10.0.0.99\"\nport = {port}\n[[service.backend]]\nname = \"a\"\n\
             address = \"10.0.0.1\"\n"
        )
    };
    let text = format!(
        "[datapath]\ninterfaces = [\"eth0\"]\n{}{}",
        service("s", 1),
        service("t", 2)
    );
    let host = HostDefaults {
        node_name: "lb".into(),
    };
    parse("lb.toml", &text, &host).unwrap()
}

#[test]
fn whoever_names_what_is_not_there_is_told_what_there_is() {
    let config = config();
    let scope = |backend: &str, service: Option<&str>, action, decisions: &Decisions| {
        let command = Command {
            backend: backend.to_owned(),
            ..command(service, action)
        };
        command
            .scope(&config, decisions, false)
            .map_err(|unknown| unknown.to_string())
    };
    let none = Decisions::default();
    assert_eq!(scope("a", None, DRAIN, &none), Ok(vec![(0, 0), (1, 0)]));
    assert_eq!(scope("a", Some("t"), DRAIN, &none), Ok(vec![(1, 0)]));
    assert_eq!(
        scope("a", Some("x"), DRAIN, &none),
        Err("there is no service \"x\"; expected one of: s, t".to_owned())
    );
    assert_eq!(
        scope("b", Some("t"), DRAIN, &none),
        Err("there is no backend \"b\" in the service t; expected one of: a".to_owned())
    );
    let heavy = scope("a", None, Action::Weight(Some(MAX_WEIGHT + 1)), &none);
    assert!(
        heavy
            .as_ref()
            .is_err_and(|error| error.contains("from 0 to 1000")),
        "{heavy:?}"
    );
    // What has been decided can be taken back wherever the backend has gone, and nothing else.
    let decided = after(&[(None, DRAIN)]);
    assert_eq!(scope("b", None, Action::Undrain, &decided), Ok(vec![]));
    assert!(scope("b", None, DRAIN, &decided).is_err());
    assert!(scope("b", None, Action::Undrain, &none).is_err());
    // Of one whose connections live, what becomes of these can be decided.
    for (action, is_known) in [
        (Action::Disable, true),
        (DRAIN, true),
        (Action::Weight(Some(3)), false),
        (Action::Undrain, false),
    ] {
        let scope = command(None, action).scope(&config, &none, true);
        assert_eq!(scope.is_ok(), is_known, "{action:?}");
    }
}

#[test]
fn another_version_is_told_apart_from_damage() {
    let error = Decisions::from_text(br#"{"version": 2, "more": []}"#).unwrap_err();
    assert!(matches!(error, StoredError::Version(2)), "{error}");
    for damaged in [
        "",
        "{}",
        "[]",
        r#"{"version": 1}"#,
        r#"{"version": 1, "decisions": [{"backend": 1}]}"#,
        r#"{"version": 1, "decisions": [{"backend": "b", "admin": "resting"}]}"#,
        r#"{"version": 1, "decisions": [{"backend": "b", "colour": 1}]}"#,
    ] {
        let error = Decisions::from_text(damaged.as_bytes()).unwrap_err();
        assert!(matches!(error, StoredError::Form(_)), "{damaged}: {error}");
    }
    let heavy = r#"{"version": 1, "decisions": [{"backend": "b", "weight": {"of": 1001}}]}"#;
    assert!(matches!(
        Decisions::from_text(heavy.as_bytes()),
        Err(StoredError::Weight(1001))
    ));
}

/// The services of the model. The last is never named: it stands for those that come later.
const SERVICES: [&str; 4] = ["s", "t", "u", "later"];

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (proptest::option::of(1..9u64), any::<bool>())
            .prop_map(|(deadline_ms, soft)| Action::Drain { deadline_ms, soft }),
        Just(Action::Undrain),
        Just(Action::Disable),
        Just(Action::Enable),
        proptest::option::of(0..=MAX_WEIGHT).prop_map(Action::Weight),
    ]
}

/// In which of the services, and what.
fn any_commands() -> impl Strategy<Value = Vec<(Option<usize>, Action)>> {
    proptest::collection::vec((proptest::option::of(0..SERVICES.len() - 1), any_action()), 0..12)
}

/// What a command does to one service, said for that service alone; `None` if it is refused for all.
fn applied(states: [Orders; 4], service: Option<usize>, action: Action, now: u64) -> Option<[Orders; 4]> {
    let concerned = |index: usize| service.is_none_or(|it| it == index);
    let any = |admin| (0..4).any(|index| concerned(index) && states[index].admin == admin);
    if action == Action::Undrain && any(Admin::Disabled) && !any(Admin::Draining) {
        return None;
    }
    // A second drain of every service goes on from what is decided about every service.
    let earlier = states[service.unwrap_or(SERVICES.len() - 1)].deadline;
    let mut after = states;
    for (index, state) in after
        .iter_mut()
        .enumerate()
        .filter(|(index, _)| concerned(*index))
    {
        match action {
            Action::Drain { deadline_ms, soft } => {
                (state.admin, state.soft) = (Admin::Draining, soft);
                state.deadline = deadline_ms.map(|after| now + after).or(earlier);
            }
            Action::Undrain if states[index].admin != Admin::Draining => {}
            Action::Undrain | Action::Enable => {
                (state.admin, state.deadline, state.soft) = (Admin::Enabled, None, false);
            }
            Action::Disable => (state.admin, state.deadline, state.soft) = (Admin::Disabled, None, false),
            Action::Weight(weight) => state.weight = weight,
        }
    }
    Some(after)
}

proptest! {
    #[test]
    fn each_service_follows_the_last_word_about_it(commands in any_commands()) {
        let mut decisions = Decisions::default();
        let mut states = [Orders::default(); 4];
        for (service, action) in commands {
            let command = command(service.map(|index| SERVICES[index]), action);
            match (decisions.after(&command, NOW), applied(states, service, action, NOW)) {
                (Ok(after), Some(expected)) => (decisions, states) = (after, expected),
                (Err(_), None) => {}
                (found, expected) => prop_assert!(false, "{found:?}, expected {expected:?}"),
            }
            for (service, expected) in SERVICES.iter().zip(&states) {
                prop_assert_eq!(decisions.orders(service, "b", NOW), *expected);
            }
            let text = decisions.to_text().unwrap();
            prop_assert_eq!(&Decisions::from_text(text.as_bytes()).unwrap(), &decisions);
        }
        for action in [Action::Enable, Action::Weight(None)] {
            decisions = decisions.after(&command(None, action), NOW).unwrap();
        }
        prop_assert_eq!(decisions, Decisions::default());
    }

    #[test]
    fn a_file_that_is_cut_or_changed_is_read_or_refused(
        commands in any_commands(),
        end: proptest::sample::Index,
        place: proptest::sample::Index,
        byte: u8,
    ) {
        let mut decisions = Decisions::default();
        for (service, action) in commands {
            let command = command(service.map(|index| SERVICES[index]), action);
            decisions = decisions.after(&command, NOW).unwrap_or(decisions);
        }
        let whole = decisions.to_text().unwrap().into_bytes();
        let mut changed = whole.clone();
        changed[place.index(whole.len())] = byte;
        let _ = Decisions::from_text(&changed);
        // All but the last line end is needed.
        prop_assert!(Decisions::from_text(&whole[..end.index(whole.len() - 1)]).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Decisions::from_text(&bytes);
    }
}
