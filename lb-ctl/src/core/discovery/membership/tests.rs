use super::*;
use proptest::prelude::*;

const SEEDS: [&str; 3] = ["s1", "s2", "s3"];

fn address(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

fn coordinator(number: u8) -> Coordinator {
    Coordinator {
        name: format!("impala{number}"),
        host: format!("impala{number}"),
        addresses: vec![address(number)],
        is_quiescing: false,
        started: String::new(),
    }
}

fn page(numbers: impl IntoIterator<Item = u8>) -> Vec<Coordinator> {
    numbers.into_iter().map(coordinator).collect()
}

fn membership(seeds: usize) -> Membership {
    Membership::new(SEEDS[..seeds].iter().map(ToString::to_string))
}

fn names(membership: &Membership) -> Vec<&str> {
    membership.members().map(|(name, _)| name).collect()
}

impl Membership {
    fn hears(&mut self, seed: &str, numbers: &[u8]) -> Vec<Notice> {
        self.observe(seed, Ok(page(numbers.iter().copied())), Duration::ZERO)
    }

    fn hears_nothing(&mut self, seed: &str) -> Vec<Notice> {
        self.observe(seed, Err("Connection refused".into()), Duration::ZERO)
    }
}

#[test]
fn one_seed_is_enough_to_add_somebody() {
    let mut members = membership(2);
    let notices = members.hears("s1", &[1, 2]);
    assert_eq!(names(&members), ["impala1", "impala2"]);
    let added = Notice::Added {
        name: "impala2".into(),
        address: address(2),
        cause: "listed by s1".into(),
    };
    assert!(notices.contains(&added), "{notices:?}");
    members.hears("s2", &[2, 3]);
    assert_eq!(names(&members), ["impala1", "impala2", "impala3"]);
    assert_eq!(members.listed_by(address(2)), ["s1", "s2"]);
}

#[test]
fn who_is_on_no_page_for_some_rounds_is_removed() {
    let mut members = membership(2);
    members.hears("s1", &[1, 2, 3]);
    for round in 1..=ROUNDS {
        members.hears("s1", &[1, 2]);
        assert_eq!(names(&members).len(), 3, "round {round}");
        let notices = members.hears("s2", &[1, 2]);
        let removed = Notice::Removed {
            name: "impala3".into(),
            address: address(3),
            cause: "not listed 3 times in a row by s1, s2".into(),
        };
        assert_eq!(notices.contains(&removed), round == ROUNDS, "{notices:?}");
    }
    assert_eq!(names(&members), ["impala1", "impala2"]);
}

#[test]
fn nobody_is_removed_on_the_word_of_one() {
    for seeds in [2, 3] {
        let mut members = membership(seeds);
        members.hears("s1", &[1, 2, 3]);
        for _ in 0..100 {
            members.hears("s1", &[1, 2]);
            for silent in &SEEDS[1..seeds] {
                members.hears_nothing(silent);
            }
        }
        assert_eq!(names(&members).len(), 3, "{seeds} seeds");
    }
    // Of three, two are enough, if the third does not contradict.
    let mut members = membership(3);
    members.hears("s1", &[1, 2, 3]);
    for _ in 0..100 {
        for (seed, numbers) in [("s1", &[1, 2][..]), ("s2", &[1, 2]), ("s3", &[1, 2, 3])] {
            members.hears(seed, numbers);
        }
    }
    assert_eq!(names(&members).len(), 3);
    members.hears_nothing("s3");
    assert_eq!(names(&members).len(), 2);
}

#[test]
fn a_page_that_comes_between_begins_the_count_anew() {
    let mut members = membership(2);
    members.hears("s1", &[1, 2, 3]);
    for _ in 0..100 {
        for _ in 1..ROUNDS {
            members.hears("s1", &[1, 2]);
            members.hears("s2", &[1, 2]);
        }
        members.hears("s2", &[1, 2, 3]);
    }
    assert_eq!(names(&members).len(), 3);
}

#[test]
fn seeds_of_several_clusters_do_not_fill_the_balancer() {
    let mut members = membership(2);
    let cluster = |second: u8| -> Vec<Coordinator> {
        let one = |number: usize| Coordinator {
            name: format!("impala-{second}-{number}"),
            host: format!("impala-{second}-{number}"),
            addresses: vec![IpAddr::from([
                10,
                second,
                u8::try_from(number >> 8).unwrap(),
                u8::try_from(number & 255).unwrap(),
            ])],
            is_quiescing: false,
            started: String::new(),
        };
        (0..MOST_COORDINATORS - 1).map(one).collect()
    };
    members.observe("s1", Ok(cluster(1)), Duration::ZERO);
    let notices = members.observe("s2", Ok(cluster(2)), Duration::ZERO);
    assert!(notices.contains(&Notice::Full));
    assert_eq!(members.members().count(), MOST_COORDINATORS);
    let again = members.observe("s2", Ok(cluster(2)), Duration::ZERO);
    assert_eq!(again, []);
}

#[test]
fn many_are_not_removed_so_soon() {
    let mut members = membership(2);
    members.hears("s1", &[1, 2, 3, 4, 5]);
    let mut notices = Vec::new();
    for round in 1..=ROUNDS_OF_MASS_REMOVAL {
        assert_eq!(names(&members).len(), 5, "round {round}");
        notices.extend(members.hears("s1", &[1, 2]));
        notices.extend(members.hears("s2", &[2, 1]));
    }
    let short = Notice::Short {
        listed: 2,
        members: 5,
    };
    assert_eq!(notices.iter().filter(|notice| **notice == short).count(), 1);
    assert_eq!(names(&members), ["impala1", "impala2"]);
}

#[test]
fn a_coordinator_with_another_address_is_another_machine_once_nobody_says_otherwise() {
    let mut members = membership(2);
    let moved = || {
        let mut page = page([1, 2, 3]);
        page[0].addresses = vec![address(9)];
        Ok(page)
    };
    members.hears("s1", &[1, 2, 3]);
    for _ in 1..=ROUNDS {
        assert!(members.members().any(|(_, it)| it == address(1)));
        members.observe("s1", moved(), Duration::ZERO);
        members.observe("s2", moved(), Duration::ZERO);
    }
    let now: Vec<_> = members.members().collect();
    assert_eq!(now[0], ("impala1", address(9)));
    assert_eq!(now.len(), 3);
}

#[test]
fn a_name_that_cannot_be_resolved_for_a_while_is_listed_all_the_same() {
    let mut members = membership(2);
    members.hears("s1", &[1, 2]);
    let unresolved = || {
        let mut page = page([1, 2, 3]);
        for coordinator in &mut page {
            coordinator.addresses.clear();
        }
        Ok(page)
    };
    let mut notices = Vec::new();
    for _ in 0..100 {
        notices.extend(members.observe("s1", unresolved(), Duration::ZERO));
        notices.extend(members.observe("s2", unresolved(), Duration::ZERO));
    }
    assert_eq!(names(&members), ["impala1", "impala2"]);
    let unusable = Notice::WithoutAddress {
        name: "impala3".into(),
    };
    assert_eq!(notices.iter().filter(|notice| **notice == unusable).count(), 1);
    assert_eq!(members.listed_by(address(1)), ["s1", "s2"]);
}

#[test]
fn a_remembered_member_takes_the_name_that_the_pages_have_for_it() {
    let mut members = membership(2);
    members.remember("old", address(1));
    members.remember("twice", address(1));
    members.remember("impala2", address(2));
    assert_eq!(names(&members), ["impala2", "old"]);
    let notices = members.hears("s1", &[1, 2]);
    assert_eq!(names(&members), ["impala1", "impala2"]);
    let renamed = Notice::Renamed {
        from: "old".into(),
        to: "impala1".into(),
        address: address(1),
    };
    assert!(notices.contains(&renamed), "{notices:?}");
}

#[test]
fn two_names_of_one_address_do_not_take_turns() {
    let mut members = membership(2);
    let other = || {
        let mut page = page([1]);
        page[0].name = "other".into();
        Ok(page)
    };
    members.hears("s1", &[1]);
    for _ in 0..100 {
        members.observe("s2", other(), Duration::ZERO);
        members.hears("s1", &[1]);
        assert_eq!(names(&members), ["impala1"]);
    }
}

#[test]
fn who_shuts_down_is_told_by_the_page_that_knows_its_newest_process() {
    let mut members = membership(2);
    let saying = |is_quiescing, started: &str| {
        let mut page = page([1, 2]);
        page[0].is_quiescing = is_quiescing;
        page[0].started = started.into();
        Ok(page)
    };
    members.observe("s1", saying(false, "2026-01-01"), Duration::ZERO);
    members.observe("s2", saying(true, "2026-01-01"), Duration::from_secs(2));
    let expected = Announcement {
        process: "2026-01-01".into(),
        read: Duration::from_secs(2),
        cause: "is shutting down, as listed by s2".into(),
    };
    assert_eq!(members.quiescing(address(1)), Some(&expected));
    assert_eq!(members.quiescing(address(2)), None);
    // It is gone from the pages, but still a member: what was last known of it counts.
    members.hears("s1", &[2]);
    members.hears_nothing("s2");
    assert_eq!(
        members.quiescing(address(1)),
        Some(&expected),
        "and when that was"
    );
    // A page that is out of date goes on saying so; its process has ended.
    members.observe("s2", saying(true, "2026-01-01"), Duration::ZERO);
    let notices = members.observe("s1", saying(false, "2026-01-02"), Duration::ZERO);
    assert_eq!(notices, [Notice::NotQuiescing { address: address(1) }]);
}

#[test]
fn whom_nobody_lists_any_more_nobody_says_to_shut_down() {
    let mut members = membership(2);
    // In the file, and not a member, since no page has its address under a name of its own.
    let mut page = page([1, 2]);
    page[0].addresses.push(address(9));
    page[0].is_quiescing = true;
    members.observe("s1", Ok(page), Duration::ZERO);
    assert!(members.quiescing(address(9)).is_some());
    members.hears("s1", &[1, 2]);
    assert!(members.quiescing(address(9)).is_some(), "one seed may be wrong");
    let notices = members.hears("s2", &[1, 2]);
    assert!(notices.contains(&Notice::NotQuiescing { address: address(9) }));
    assert_eq!(members.quiescing(address(9)), None);
}

#[test]
fn what_seeds_say_is_told_once() {
    let mut members = membership(2);
    let fails = Notice::Fails {
        seed: "s1".into(),
        cause: "Connection refused".into(),
    };
    assert_eq!(members.hears_nothing("s1"), std::slice::from_ref(&fails));
    assert_eq!(members.hears_nothing("s1"), []);
    assert!(!members.is_complete());
    let answers = members.hears("s1", &[1]);
    assert!(matches!(&answers[0], Notice::Answers { seed, coordinators: 1 } if seed == "s1"));
    assert_eq!(members.hears("s1", &[1]), []);
    assert_eq!(members.hears_nothing("s1"), [fails]);
    assert_eq!(members.hears("stranger", &[1]), []);
}

#[test]
fn other_seeds_do_not_change_who_is_a_member() {
    let mut before = membership(2);
    before.hears("s1", &[1, 2, 3]);
    for _ in 1..ROUNDS {
        before.hears("s1", &[1, 2]);
        before.hears("s2", &[1, 2]);
    }
    let mut members = before.follow(["s2", "s3"].map(str::to_owned));
    assert_eq!(
        members.members().collect::<Vec<_>>(),
        before.members().collect::<Vec<_>>()
    );
    members.hears("s2", &[1, 2]);
    assert_eq!(names(&members).len(), 3, "s3 has not said anything yet");
    for _ in 0..ROUNDS {
        members.hears("s3", &[1, 2]);
    }
    assert_eq!(names(&members).len(), 2);
}

/// What a seed may say.
fn answer() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop::collection::btree_set(1_u8..8, 1..8).prop_map(|set| set.into_iter().collect()))
}

proptest! {
    #[test]
    fn members_leave_only_by_agreement(
        seeds in 2_usize..4,
        said in prop::collection::vec((0_usize..3, answer()), 0..200),
    ) {
        let mut members = membership(seeds);
        let mut last: Vec<Option<Vec<u8>>> = vec![None; seeds];
        for (seed, answer) in said {
            let seed = seed % seeds;
            let before: BTreeSet<String> = names(&members).into_iter().map(str::to_owned).collect();
            last[seed].clone_from(&answer);
            let answer = answer.map(page).ok_or_else(|| "refused".to_owned());
            members.observe(SEEDS[seed], answer, Duration::ZERO);
            let after: BTreeSet<String> = names(&members).into_iter().map(str::to_owned).collect();

            let answering: Vec<&Vec<u8>> = last.iter().flatten().collect();
            let listed: BTreeSet<String> =
                answering.iter().copied().flatten().map(|number| format!("impala{number}")).collect();
            prop_assert!(after.is_superset(&listed), "whoever is on a page is a member");
            let removed: Vec<&String> = before.difference(&after).collect();
            if !removed.is_empty() {
                prop_assert!(answering.len() >= 2 && answering.len() * 2 > seeds, "a majority says so");
                prop_assert!(removed.iter().all(|name| !listed.contains(*name)));
            }
            prop_assert!(before.is_empty() || !after.is_empty(), "a service is never emptied");
        }
    }
}
