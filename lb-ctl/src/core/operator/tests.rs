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
            decisions.after(&command(*service, *action), NOW, "lb1").unwrap()
        })
}

fn says_nothing(decisions: &Decisions) -> bool {
    decisions.subjects().next().is_none()
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
    let decided = before.after(&about_the_new_one, NOW, "lb1").unwrap();
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
            .after(&command(service, Action::Undrain), NOW, "lb1")
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
    assert!(says_nothing(&after(&[(None, Action::Undrain)])));
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
        .after(&command(None, Action::Undrain), NOW + 9000, "lb1")
        .unwrap();
    assert!(says_nothing(&back));
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
    let error = Decisions::from_text(br#"{"version": 3, "more": []}"#).unwrap_err();
    assert!(matches!(error, StoredError::Version(3)), "{error}");
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
            match (decisions.after(&command, NOW, "lb1"), applied(states, service, action, NOW)) {
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
            decisions = decisions.after(&command(None, action), NOW, "lb1").unwrap();
        }
        prop_assert!(says_nothing(&decisions));
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
            decisions = decisions.after(&command, NOW, "lb1").unwrap_or(decisions);
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

#[test]
fn what_the_version_before_has_kept_holds_as_it_did() {
    let text = r#"{"version": 1, "decisions": [
        {"backend": "b", "admin": {"draining": {"since": 100}}, "weight": {"of": 7}},
        {"backend": "b", "service": "s", "admin": "enabled", "weight": "configured"},
        {"backend": "b", "service": "t", "admin": {"disabled": {"since": 90}}}
    ]}"#;
    let decisions = Decisions::from_text(text.as_bytes()).unwrap();
    let of = |service| decisions.orders(service, "b", NOW);
    assert_eq!((of("s").admin, of("s").weight), (Admin::Enabled, None));
    assert_eq!((of("t").admin, of("t").weight), (Admin::Disabled, Some(7)));
    assert_eq!((of("u").admin, of("u").weight), (Admin::Draining, Some(7)));
    let text = decisions.to_text().unwrap();
    assert_eq!(Decisions::from_text(text.as_bytes()).unwrap(), decisions);
    // Whatever is said from now on was said later.
    let later = decisions.after(&command(None, Action::Enable), 1, "lb1").unwrap();
    assert_eq!(admin(&later, "t"), Admin::Enabled);
    let late = r#"{"version": 2, "decisions": [{"backend": "b", "admin": {"time": 253402300800000, "node": "lb1"}}]}"#;
    assert!(matches!(
        Decisions::from_text(late.as_bytes()),
        Err(StoredError::Time(_))
    ));
}

/// What the other balancer makes of all that this one says, so long after.
fn told(from: &Decisions, at: u64, to: &Decisions, then: u64) -> Decisions {
    let merged = to.merged(&from.words(at), then);
    assert_eq!(merged.refused, 0);
    merged.decisions.unwrap_or_else(|| to.clone())
}

#[test]
fn the_last_word_counts_also_for_a_balancer_that_was_away() {
    let say = |decisions: &Decisions, action, now, node| {
        decisions.after(&command(None, action), now, node).unwrap()
    };
    let none = Decisions::default();
    // Drained here; later, while the two are apart, taken back there, where nobody knew of it.
    let here = say(&none, DRAIN, NOW, "lb1");
    let here = say(&here, Action::Weight(Some(3)), NOW + 1, "lb1");
    let there = say(&none, Action::Undrain, NOW + 60_000, "lb2");
    for both in [told(&here, NOW, &there, NOW), told(&there, NOW, &here, NOW)] {
        assert_eq!(admin(&both, "s"), Admin::Enabled);
        assert_eq!(
            both.orders("s", "b", NOW).weight,
            Some(3),
            "nobody has spoken of it since"
        );
    }
    // Whoever knows of a word has the later one, however slow its clock is.
    let there = told(&here, NOW, &none, 5);
    let there = say(&there, Action::Disable, 5, "lb2");
    assert_eq!(admin(&told(&there, 5, &here, NOW), "s"), Admin::Disabled);
    // A word about one service counts if it is later than the one about every service.
    let narrow = command(Some("s"), DRAIN);
    let there = none.after(&narrow, NOW - 1, "lb2").unwrap();
    let here = say(&none, Action::Enable, NOW, "lb1");
    assert_eq!(admin(&told(&there, NOW, &here, NOW), "s"), Admin::Enabled);
    let there = none.after(&narrow, NOW + 1, "lb2").unwrap();
    let both = told(&here, NOW, &there, NOW);
    assert_eq!(
        (admin(&both, "s"), admin(&both, "t")),
        (Admin::Draining, Admin::Enabled)
    );
}

#[test]
fn a_deadline_is_as_far_away_by_another_clock() {
    let until = Action::Drain {
        deadline_ms: Some(5000),
        soft: false,
    };
    let here = after(&[(None, until)]);
    for clock in [0, NOW - 3_600_000, NOW + 3_600_000] {
        let there = told(&here, NOW + 2000, &Decisions::default(), clock);
        assert_eq!(there.orders("s", "b", clock + 2999).admin, Admin::Draining);
        assert_eq!(there.orders("s", "b", clock + 3000).admin, Admin::Disabled);
        // It does not move when it is told again, nor when it is told back.
        assert_eq!(told(&here, NOW + 2100, &there, clock + 200), there);
        assert_eq!(told(&there, clock + 200, &here, NOW + 2500), here);
    }
}

#[test]
fn a_name_that_nobody_has_any_more_does_not_come_back_from_the_other_balancer() {
    let decided = after(&[(None, DRAIN), (Some("s"), Action::Weight(Some(3)))]);
    let renamed = decided.after_renaming("b", "c").unwrap();
    let moved = renamed.without("b").unwrap();
    assert_eq!(told(&decided, NOW, &moved, NOW), moved);
    assert!(!moved.mentions("b", None));
    // There the old name counts until it is found out that nobody has it.
    let there = told(&moved, NOW, &decided, NOW);
    for name in ["b", "c"] {
        assert_eq!(there.orders("t", name, NOW).admin, Admin::Draining, "{name}");
        assert_eq!(there.orders("s", name, NOW).weight, Some(3), "{name}");
    }
    let text = moved.to_text().unwrap();
    assert_eq!(Decisions::from_text(text.as_bytes()).unwrap(), moved);
    // What is decided about it anew counts.
    let again = moved
        .after(&command(None, Action::Weight(Some(9))), NOW, "lb2")
        .unwrap();
    let orders = again.orders("t", "b", NOW);
    assert_eq!((orders.admin, orders.weight), (Admin::Enabled, Some(9)));
    // And what has been taken back under the new name is not drained again by whoever finds the name later.
    let back = Command {
        backend: "c".to_owned(),
        ..command(None, Action::Undrain)
    };
    let there = told(&moved.after(&back, NOW, "lb1").unwrap(), NOW, &decided, NOW);
    let there = there.after_renaming("b", "c").unwrap_or(there);
    assert_eq!(there.orders("t", "c", NOW).admin, Admin::Enabled);
}

#[test]
fn what_says_nothing_is_forgotten_when_there_is_too_much_of_it() {
    let mut decisions = after(&[(None, DRAIN)]);
    for number in 0..u64::try_from(MOST_SPARE).unwrap() + 10 {
        for action in [DRAIN, Action::Undrain] {
            let command = Command {
                backend: format!("gone{number}"),
                ..command(None, action)
            };
            decisions = decisions.after(&command, NOW + number, "lb1").unwrap();
        }
    }
    assert_eq!(decisions.words(NOW).len(), MOST_SPARE + 1);
    assert_eq!(admin(&decisions, "s"), Admin::Draining);
    assert!(decisions.words(NOW).iter().all(|word| word.backend != "gone9"));
    assert!(decisions.words(NOW).iter().any(|word| word.backend == "gone10"));
}

/// It has not kept on which node they were made.
#[test]
fn decisions_of_an_earlier_version_are_heard_by_the_other_balancer() {
    let text = br#"{"version": 1, "decisions": [{"backend": "b", "weight": {"of": 7}}]}"#;
    let words = Decisions::from_text(text).unwrap().words(NOW);
    let merged = Decisions::default().merged(&words, NOW);
    assert_eq!((words.len(), merged.refused), (1, 0));
    assert!(merged.decisions.unwrap().mentions("b", None));
}

#[test]
fn words_that_cannot_be_are_refused() {
    let word = Word {
        backend: "b".to_owned(),
        service: None,
        time: NOW,
        node: "lb2".to_owned(),
        order: Order::Weight(Some(WeightOrder::Of(7))),
    };
    let long = "x".repeat(64);
    let strange = [
        Word {
            backend: String::new(),
            ..word.clone()
        },
        Word {
            backend: long.clone(),
            ..word.clone()
        },
        Word {
            backend: "two\nlines".to_owned(),
            ..word.clone()
        },
        Word {
            service: Some(long),
            ..word.clone()
        },
        Word {
            time: u64::MAX,
            ..word.clone()
        },
        Word {
            node: "x".repeat(1000),
            ..word.clone()
        },
        Word {
            order: Order::Weight(Some(WeightOrder::Of(MAX_WEIGHT + 1))),
            ..word.clone()
        },
    ];
    let merged = Decisions::default().merged(&strange, NOW);
    assert_eq!((merged.decisions, merged.refused), (None, strange.len()));
    let many: Vec<Word> = (0..9000)
        .map(|number| Word {
            backend: format!("b{number}"),
            ..word.clone()
        })
        .collect();
    let merged = Decisions::default().merged(&many, NOW);
    assert_eq!(merged.refused, 9000 - 8192);
    let full = merged.decisions.unwrap();
    let known = Word {
        backend: "b1".to_owned(),
        time: NOW + 1,
        ..word
    };
    assert_eq!(
        full.merged(&[known], NOW).refused,
        0,
        "there is room for what is known"
    );
}

/// All words without times: of these each balancer has its own clock's.
fn what(decisions: &Decisions) -> Vec<Word> {
    let timeless = |word: Word| Word {
        order: match word.order {
            Order::Admin(Some(AdminWord::Draining { soft, .. })) => Order::Admin(Some(AdminWord::Draining {
                lasted: 0,
                left: None,
                soft,
            })),
            Order::Admin(Some(AdminWord::Disabled { .. })) => {
                Order::Admin(Some(AdminWord::Disabled { lasted: 0 }))
            }
            other => other,
        },
        ..word
    };
    decisions.words(NOW).into_iter().map(timeless).collect()
}

/// Commands to each of three balancers, whose clocks differ, some of which are told to another one.
fn apart() -> impl Strategy<Value = Vec<(usize, Option<usize>, Action, Option<usize>)>> {
    let node = || 0..3_usize;
    let service = proptest::option::of(0..SERVICES.len() - 1);
    proptest::collection::vec(
        (
            node(),
            service,
            any_action(),
            proptest::option::weighted(0.3, node()),
        ),
        0..24,
    )
}

proptest! {
    #[test]
    fn whoever_has_heard_the_same_words_has_decided_the_same(steps in apart(), again: bool) {
        let clocks = [NOW, NOW - 50, NOW + 7];
        let mut nodes = [Decisions::default(), Decisions::default(), Decisions::default()];
        for (time, (node, service, action, tells)) in (0..).step_by(3).zip(steps) {
            let command = command(service.map(|index| SERVICES[index]), action);
            let now = clocks[node] + time;
            if let Ok(after) = nodes[node].after(&command, now, &format!("lb{node}")) {
                // What comes of a command follows from words alone, which are told one by one too.
                let words = after.words_since(&nodes[node], now);
                let follower = nodes[node].merged(&words, now).decisions.unwrap_or_else(|| nodes[node].clone());
                prop_assert_eq!(what(&follower), what(&after));
                nodes[node] = after;
            }
            if let Some(to) = tells {
                nodes[to] = told(&nodes[node], now, &nodes[to], clocks[to] + time);
            }
        }
        let [a, b, c] = nodes;
        let tell = |from: &Decisions, to: &Decisions| told(from, NOW, to, NOW);
        let one = tell(&c, &tell(&b, &a));
        let other = tell(&tell(&a, &c), &b);
        prop_assert_eq!(what(&one), what(&other));
        let third = tell(&a, &tell(&b, &c));
        prop_assert_eq!(what(&one), what(&third));
        prop_assert_eq!(tell(if again { &one } else { &c }, &one), one);
    }
}
