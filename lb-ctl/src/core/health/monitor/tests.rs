//! A backend's life, check by check.

use super::*;
use proptest::prelude::*;

const PACE: Pace = Pace {
    interval: Duration::from_secs(2),
    fast_interval: Duration::from_millis(500),
    rise: 2,
    fall: 3,
};

const H: Verdict = Verdict::Healthy;
const S: Verdict = Verdict::Saturated;
const Q: Verdict = Verdict::Quiescing;
const F: Verdict = Verdict::Failed(Failure::Failing);
const U: Verdict = Verdict::Failed(Failure::Unreachable);

/// A backend under a simulated clock: each check begins when it is due.
struct Backend {
    monitor: Monitor,
    now: Duration,
}

impl Backend {
    fn new(start: Start) -> Self {
        Self {
            monitor: Monitor::new("impala1", 7, PACE, start, Duration::ZERO),
            now: Duration::ZERO,
        }
    }

    fn check(&mut self, verdict: Verdict, process: Option<&str>) -> Vec<Event> {
        let began = self.monitor.next_check();
        assert!(began >= self.now, "the past cannot be checked");
        self.now = began + Duration::from_millis(3);
        let mut outcome = Outcome::new(verdict, self.now.saturating_sub(began), "words");
        outcome.process_start_time = process.map(str::to_owned);
        self.monitor.observe(&outcome, began, self.now)
    }

    /// The health after each check.
    fn healths(&mut self, verdicts: &[Verdict]) -> Vec<&'static str> {
        verdicts
            .iter()
            .map(|&verdict| {
                self.check(verdict, None);
                self.monitor.health().as_str()
            })
            .collect()
    }
}

#[test]
fn a_cold_backend_serves_after_its_first_success() {
    let mut backend = Backend::new(Start::Cold);
    assert_eq!(backend.monitor.standing(), Standing::Pending);
    assert_eq!(backend.healths(&[F, F, H]), ["checking", "checking", "up"]);
    assert_eq!(
        backend.monitor.up_since(),
        None,
        "all start together: nobody slowly"
    );
}

#[test]
fn an_added_backend_starts_slowly() {
    let mut backend = Backend::new(Start::Added);
    assert_eq!(backend.healths(&[H]), ["up"]);
    assert_eq!(backend.monitor.up_since(), Some(backend.now));
}

#[test]
fn a_warm_backend_keeps_its_health_until_checks_say_otherwise() {
    for health in [Health::Up, Health::Saturated, Health::Quiescing] {
        let mut backend = Backend::new(Start::Warm(health));
        let word = health.as_str();
        assert_eq!(backend.healths(&[U, U, U]), [word, word, "down"]);
    }
    let mut backend = Backend::new(Start::Warm(Health::Down));
    assert_eq!(backend.healths(&[H, H]), ["down", "up"]);
    assert_eq!(backend.monitor.up_since(), Some(backend.now));
    for start in [Start::Warm(Health::Up), Start::Spare] {
        let mut backend = Backend::new(start);
        assert_eq!(
            (backend.monitor.health(), backend.monitor.up_since()),
            (Health::Up, None)
        );
        assert_eq!(backend.healths(&[U, U, U]), ["up", "up", "down"]);
    }
}

#[test]
fn it_takes_fall_failures_to_go_down_and_rise_successes_to_come_back() {
    let mut backend = Backend::new(Start::Cold);
    assert_eq!(
        backend.healths(&[H, F, U, H, U, F, U, H, F, H, H]),
        [
            "up", "up", "up", "up", "up", "up", "down", "down", "down", "down", "up"
        ]
    );
}

#[test]
fn late_answers_saturate_and_never_kill() {
    let mut backend = Backend::new(Start::Cold);
    assert_eq!(backend.healths(&[H, S, S, S]), ["up", "up", "up", "saturated"]);
    assert!(
        backend
            .healths(&[S; 50])
            .iter()
            .all(|&health| health == "saturated")
    );
    assert_eq!(
        backend.healths(&[H, S, H, H]),
        ["saturated", "saturated", "saturated", "up"]
    );
}

#[test]
fn a_mixture_of_late_and_wrong_answers_ends_the_service_too() {
    let mut backend = Backend::new(Start::Warm(Health::Up));
    assert_eq!(
        backend.healths(&[F, S, F, F, F]),
        ["up", "up", "saturated", "saturated", "down"]
    );
    // Alive twice, but not well twice.
    assert_eq!(backend.healths(&[S, H, H]), ["down", "saturated", "up"]);
}

#[test]
fn a_shutdown_counts_from_the_first_word_of_it() {
    let mut backend = Backend::new(Start::Cold);
    assert_eq!(
        backend.healths(&[H, Q, Q, S, S, S, S, Q]),
        [
            "up",
            "quiescing",
            "quiescing",
            "quiescing",
            "quiescing",
            "quiescing",
            "quiescing",
            "quiescing",
        ]
    );
    assert_eq!(backend.healths(&[U, U, U]), ["quiescing", "quiescing", "down"]);
}

#[test]
fn another_start_time_is_another_process() {
    let mut backend = Backend::new(Start::Cold);
    assert_eq!(backend.check(H, Some("10:00")).len(), 1);
    assert_eq!(backend.check(H, None), []);
    assert_eq!(backend.check(H, Some("10:00")), []);
    let restarted = Event::Restarted {
        from: "10:00".to_owned(),
        to: "10:05".to_owned(),
    };
    assert_eq!(backend.check(H, Some("10:05")), [restarted]);
    assert_eq!(backend.monitor.health(), Health::Up);
}

#[test]
fn a_new_process_that_does_not_keep_up_is_not_quiescing_any_more() {
    let mut backend = Backend::new(Start::Warm(Health::Up));
    backend.check(Q, Some("10:00"));
    for _ in 0..2 {
        backend.check(S, Some("10:05"));
        assert_eq!(backend.monitor.health(), Health::Quiescing);
    }
    backend.check(S, Some("10:05"));
    assert_eq!(backend.monitor.health(), Health::Saturated);
}

#[test]
fn causes_are_sentences() {
    let mut backend = Backend::new(Start::Cold);
    let mut causes = Vec::new();
    for verdict in [H, U, U, U, S, S, H, H, S, S, S, Q] {
        for event in backend.check(verdict, None) {
            let Event::Changed { from, to, cause } = event else {
                panic!("expected a change, found {event:?}")
            };
            causes.push(format!("impala1 {cause} ({from} to {to})"));
        }
    }
    assert_eq!(
        causes,
        [
            "impala1 has passed a check: words (checking to up)",
            "impala1 has failed 3 checks in a row: words (up to down)",
            "impala1 is alive again but does not answer every check in time: words (down to saturated)",
            "impala1 has passed 2 checks in a row: words (saturated to up)",
            "impala1 has passed none of 3 checks in a row: words (up to saturated)",
            "impala1 says that it is shutting down: words (saturated to quiescing)",
        ]
    );
}

#[test]
fn the_reason_of_being_down_changes_after_fall_checks() {
    let mut backend = Backend::new(Start::Cold);
    backend.healths(&[F, F, U]);
    assert_eq!(backend.monitor.standing(), Standing::Unusable);
    backend.healths(&[F, F, U, F, F]);
    assert_eq!(backend.monitor.standing(), Standing::Unusable);
    let [Event::OtherFailure { from, to, .. }] = &backend.check(F, None)[..] else {
        panic!("expected another failure")
    };
    assert_eq!((*from, *to), (Some(Failure::Unreachable), Failure::Failing));
    assert_eq!(backend.monitor.standing(), Standing::Failing);
}

#[test]
fn what_is_down_by_hearsay_gets_its_reason_from_the_first_check() {
    let mut backend = Backend::new(Start::Warm(Health::Down));
    assert_eq!(backend.monitor.standing(), Standing::Unusable);
    assert_eq!(backend.check(F, None).len(), 1);
    assert_eq!(backend.monitor.standing(), Standing::Failing);
}

#[test]
fn checks_come_faster_while_a_change_is_not_confirmed() {
    let mut backend = Backend::new(Start::Cold);
    let mut pauses = Vec::new();
    for verdict in [H, H, F, F, F, F, H, H, Q, Q, S, U] {
        backend.check(verdict, None);
        let pause = backend.monitor.next_check().saturating_sub(backend.now);
        pauses.push(if pause < Duration::from_secs(1) {
            "fast"
        } else {
            "calm"
        });
    }
    assert_eq!(
        pauses,
        [
            "calm", "calm", "fast", "fast", "calm", "calm", "fast", "calm", "calm", "calm", "calm", "fast",
        ]
    );
}

#[test]
fn a_dead_backend_is_out_within_a_known_time() {
    let mut backend = Backend::new(Start::Cold);
    backend.check(H, None);
    let died = backend.now;
    backend.healths(&[U, U, U]);
    assert_eq!(backend.monitor.health(), Health::Down);
    let longest = (PACE.interval + PACE.fast_interval * 2) * 11 / 10 + Duration::from_millis(9);
    assert!(backend.now.saturating_sub(died) <= longest);
}

#[test]
fn another_pace_takes_effect_without_losing_the_health() {
    let mut backend = Backend::new(Start::Cold);
    backend.check(H, None);
    let slow = backend.monitor.next_check();
    let pace = Pace {
        fast_interval: Duration::from_millis(10),
        ..PACE
    };
    backend.monitor.set_pace(pace, backend.now);
    assert!(backend.monitor.next_check() <= backend.now + Duration::from_millis(10));
    assert!(backend.monitor.next_check() < slow);
    assert_eq!(backend.monitor.health(), Health::Up);
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    // Healthy and failing ones most often, so that runs of them occur.
    prop_oneof![4 => Just(H), 3 => Just(F), 2 => Just(U), 3 => Just(S), 1 => Just(Q)]
}

fn any_start() -> impl Strategy<Value = Start> {
    let health = prop::sample::select(vec![
        Health::Checking,
        Health::Up,
        Health::Saturated,
        Health::Quiescing,
        Health::Down,
    ]);
    prop_oneof![
        Just(Start::Cold),
        Just(Start::Added),
        Just(Start::Spare),
        health.prop_map(Start::Warm)
    ]
}

/// How many of the last verdicts in a row fulfil a condition.
fn run_length(verdicts: &[Verdict], condition: impl Fn(Verdict) -> bool) -> usize {
    verdicts
        .iter()
        .rev()
        .take_while(|verdict| condition(**verdict))
        .count()
}

fn failed(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Failed(_))
}

proptest! {
    #[test]
    fn no_change_comes_before_its_time(
        start in any_start(),
        rise in 1_u32..5,
        fall in 1_u32..5,
        verdicts in prop::collection::vec(any_verdict(), 1..80),
        processes in prop::collection::vec(prop::option::of(0..3), 80),
    ) {
        let pace = Pace { rise, fall, ..PACE };
        let mut backend = Backend::new(start);
        backend.monitor = Monitor::new("impala1", 7, pace, start, Duration::ZERO);
        for (index, verdict) in verdicts.iter().enumerate() {
            let before = backend.monitor.health();
            let process = processes[index].map(|number: i32| number.to_string());
            let events = backend.check(*verdict, process.as_deref());
            let after = backend.monitor.health();
            let past = &verdicts[..=index];
            let changes: Vec<_> = events
                .iter()
                .filter_map(|event| match event {
                    Event::Changed { from, to, .. } => Some((*from, *to)),
                    _ => None,
                })
                .collect();
            if before == after {
                prop_assert!(changes.is_empty());
            } else {
                prop_assert_eq!(changes, [(before, after)]);
            }
            let (rise, fall) = (rise as usize, fall as usize);
            match after {
                _ if before == after => {}
                Health::Up if before == Health::Checking => prop_assert_eq!(*verdict, H),
                Health::Up => prop_assert!(run_length(past, |it| it == H) >= rise),
                Health::Down => prop_assert!(run_length(past, failed) >= fall),
                Health::Saturated if before == Health::Down => prop_assert!(run_length(past, |it| !failed(it)) >= rise),
                Health::Saturated => prop_assert!(run_length(past, |it| failed(it) || it == S) >= fall),
                Health::Quiescing => prop_assert_eq!(*verdict, Q),
                Health::Checking => prop_assert!(false, "nothing leads back"),
            }
            // And none comes late.
            if run_length(past, |it| it == H) >= rise {
                prop_assert_eq!(after, Health::Up);
            }
            if run_length(past, failed) >= fall {
                prop_assert_eq!(after, Health::Down);
            }
            if *verdict == Q {
                prop_assert_eq!(after, Health::Quiescing);
            }
            if run_length(past, |it| failed(it) || it == S) >= fall {
                prop_assert!(!matches!(after, Health::Up | Health::Checking));
            }
        }
    }

    /// Whether it refuses at once or stays silent until the time limit, and whenever that begins.
    #[test]
    fn who_dies_is_down_within_so_many_intervals_and_the_time_limit(
        interval in 100_u64..10_000,
        fast in 1_u64..=100,
        limit in 1_u64..=100,
        fall in 1_u32..6,
        seed: u64,
        healthy in 1_usize..20,
        silent in prop::collection::vec(any::<bool>(), 6),
    ) {
        let interval = Duration::from_millis(interval);
        let percent = |percent: u64| interval * u32::try_from(percent).unwrap() / 100;
        let (fast_interval, limit) = (percent(fast), percent(limit));
        let pace = Pace { interval, fast_interval, rise: 2, fall };
        let mut monitor = Monitor::new("impala1", seed, pace, Start::Cold, Duration::ZERO);
        // What each check takes beyond what it waits for.
        let moment = Duration::from_millis(1);
        let mut died = Duration::ZERO;
        for _ in 0..healthy {
            // As late as can be without failing this check.
            died = monitor.next_check();
            monitor.observe(&Outcome::new(H, moment, ""), died, died + moment);
        }
        let mut now = died;
        for is_silent in silent {
            if monitor.health() == Health::Down {
                break;
            }
            let began = monitor.next_check();
            now = began + if is_silent { limit } else { moment };
            let verdict = if is_silent { Verdict::Failed(Failure::Silent) } else { U };
            monitor.observe(&Outcome::new(verdict, now.saturating_sub(began), ""), began, now);
        }
        prop_assert_eq!(monitor.health(), Health::Down);
        let bound = interval * fall + limit;
        // Those of the checks, and the pauses between them.
        let moments = moment * 2 * fall;
        prop_assert!(now.saturating_sub(died) <= bound + moments, "{:?}, at most {:?}", now.saturating_sub(died), bound);
    }

    #[test]
    fn the_next_check_is_always_due_soon_but_not_yet(
        start in any_start(),
        checks in prop::collection::vec((any_verdict(), 0_u64..20_000), 1..60),
    ) {
        let mut monitor = Monitor::new("impala1", 7, PACE, start, Duration::ZERO);
        for (verdict, took) in checks {
            let began = monitor.next_check();
            let ended = began + Duration::from_millis(took);
            monitor.observe(&Outcome::new(verdict, ended.saturating_sub(began), ""), began, ended);
            prop_assert!(monitor.next_check() > ended);
            prop_assert!(monitor.next_check() <= ended + PACE.interval);
        }
    }
}
