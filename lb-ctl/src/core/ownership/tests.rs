use lb_common::address::Address;
use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(100);
const MOMENT: Duration = Duration::from_millis(1);

fn key(number: u8) -> ServiceKey {
    ServiceKey::tcp(Address::v4([192, 0, 2, number]), 21_050)
}

const fn us(term: u64) -> Master<u64> {
    Master::Us {
        term,
        is_announced: true,
    }
}

const fn unannounced(term: u64) -> Master<u64> {
    Master::Us {
        term,
        is_announced: false,
    }
}

/// One service, and whether the peer tells of it.
fn look(ownership: &mut Ownership<u64>, master: Master<u64>, is_telling: bool, now: Duration) -> Turn {
    ownership.look([(key(1), master)], |_| is_telling, now)
}

/// It is ours, at once.
fn taken(was_lost: bool) -> Turn {
    Turn {
        taken: vec![Taken {
            key: key(1),
            has_arrived: false,
            was_lost,
        }],
        ..Turn::default()
    }
}

/// It is ours, after a while.
fn arrived() -> Turn {
    let mut turn = taken(false);
    turn.taken[0].has_arrived = true;
    turn
}

/// Looks as often as is due until there is something to do. Returns that, and when it is.
fn wait(ownership: &mut Ownership<u64>, master: Master<u64>) -> (Turn, Duration) {
    loop {
        let due = ownership.due().expect("something arrives");
        let turn = look(ownership, master, true, due);
        if turn != Turn::default() {
            return (turn, due);
        }
    }
}

fn asked() -> Turn {
    Turn {
        asked: vec![key(1)],
        ..Turn::default()
    }
}

/// A balancer whose peer owns the service and tells of it.
fn following() -> Ownership<u64> {
    let mut ownership = Ownership::default();
    assert_eq!(look(&mut ownership, Master::Other, false, NOW), asked());
    ownership.connected();
    assert_eq!(ownership.introduced(&key(1)), Some(false));
    assert_eq!(
        look(&mut ownership, Master::Other, true, NOW),
        Turn::default(),
        "it is asked once"
    );
    ownership
}

/// One to whom it begins to come.
fn arriving(master: Master<u64>) -> Ownership<u64> {
    let mut ownership = following();
    let begun = Turn {
        arriving: vec![key(1)],
        ..Turn::default()
    };
    assert_eq!(look(&mut ownership, master, true, NOW), begun);
    ownership
}

#[test]
fn what_nobody_else_can_have_is_ours_at_once_and_once() {
    let mut ownership = Ownership::default();
    assert_eq!(look(&mut ownership, Master::Uncontested, true, NOW), taken(false));
    assert_eq!(
        look(&mut ownership, Master::Uncontested, true, NOW),
        Turn::default()
    );
    assert!(ownership.owns(&key(1)) && ownership.tells(&key(1)));
}

#[test]
fn what_the_peer_tells_nothing_of_is_ours_at_once() {
    let mut ownership = following();
    assert_eq!(look(&mut ownership, us(1), false, NOW), taken(false));
    assert_eq!(ownership.due(), None);
}

#[test]
fn what_the_peer_tells_of_arrives_first_and_is_not_told_to_it_meanwhile() {
    let mut ownership = arriving(us(1));
    assert!(ownership.arrives(&key(1)) && ownership.arriving().eq([key(1)]));
    assert!(!ownership.owns(&key(1)) && !ownership.tells(&key(1)));
    assert_eq!(wait(&mut ownership, us(1)), (arrived(), NOW + ARRIVAL));
    assert!(ownership.owns(&key(1)) && ownership.tells(&key(1)));
    assert!(!ownership.arrives(&key(1)) && ownership.due().is_none());
}

#[test]
fn it_arrives_from_its_announcement_on_but_not_for_ever() {
    let mut ownership = arriving(unannounced(1));
    for step in 1..=10 {
        let turn = look(&mut ownership, unannounced(1), true, NOW + STEP * step);
        assert_eq!(turn, Turn::default());
    }
    let announced = NOW + STEP * 11;
    assert_eq!(look(&mut ownership, us(1), true, announced), Turn::default());
    // An address may have to be put on again meanwhile.
    let (turn, at) = wait(&mut ownership, unannounced(1));
    assert_eq!((turn, at), (arrived(), announced + ARRIVAL));

    let mut ownership = arriving(unannounced(1));
    let (turn, at) = wait(&mut ownership, unannounced(1));
    assert_eq!((turn, at), (arrived(), NOW + LONGEST_ARRIVAL));
}

/// Who is busy takes nothing in.
#[test]
fn time_in_which_nobody_looks_does_not_count() {
    let mut ownership = arriving(us(1));
    let later = NOW + Duration::from_mins(1);
    assert_eq!(look(&mut ownership, us(1), true, later), Turn::default());
    let (turn, at) = wait(&mut ownership, us(1));
    assert_eq!((turn, at), (arrived(), (later + ARRIVAL).saturating_sub(STEP)));
}

#[test]
fn nobody_waits_for_a_former_owner_that_is_gone() {
    let mut ownership = arriving(us(1));
    ownership.disconnected();
    assert_eq!(look(&mut ownership, us(1), false, NOW + MOMENT), taken(false));
}

/// What was told is asked for: it was not taken in as it was told.
#[test]
fn what_turns_back_has_to_be_told_anew() {
    let mut ownership = arriving(us(1));
    assert_eq!(ownership.moving(), 1);
    let later = NOW + MOMENT;
    assert_eq!(look(&mut ownership, Master::Other, true, later), asked());
    assert!(ownership.due().is_none() && ownership.moving() == 0);
    assert!(!ownership.tells(&key(1)), "it is the other one's");
    let again = look(&mut ownership, us(2), true, later);
    assert_eq!(again.arriving, [key(1)], "and arrives anew");
}

/// The other one may have been master for a moment, and has not said yet that it is the owner.
#[test]
fn what_comes_back_before_the_peer_has_said_that_it_is_its_own_arrives_too() {
    let mut ownership = Ownership::default();
    look(&mut ownership, us(1), false, NOW);
    ownership.connected();
    look(&mut ownership, Master::Other, false, NOW);
    let back = look(&mut ownership, us(2), false, NOW);
    assert_eq!(back.arriving, [key(1)]);
    assert!(ownership.tells(&key(1)));
    ownership.disconnected();
    assert_eq!(look(&mut ownership, us(2), false, NOW), taken(false));
    // And without one from the beginning.
    look(&mut ownership, Master::Other, false, NOW);
    assert_eq!(look(&mut ownership, us(3), false, NOW), taken(false));
}

#[test]
fn a_former_owner_tells_on_until_the_peer_says_that_it_is_the_owner() {
    let mut ownership = Ownership::default();
    look(&mut ownership, us(1), false, NOW);
    ownership.connected();
    assert_eq!(ownership.introduced(&key(1)), None, "it is ours");
    let lost = Turn {
        lost: vec![key(1)],
        ..asked()
    };
    assert_eq!(look(&mut ownership, Master::Other, false, NOW), lost);
    assert!(!ownership.owns(&key(1)) && ownership.tells(&key(1)) && ownership.handed_over() == 1);
    assert_eq!(look(&mut ownership, Master::Other, false, NOW), Turn::default());
    assert_eq!(ownership.introduced(&key(1)), Some(true));
    assert!(!ownership.tells(&key(1)) && ownership.handed_over() == 0);
    assert_eq!(ownership.introduced(&key(1)), Some(false));
}

#[test]
fn a_loss_that_nobody_saw_is_one() {
    let mut ownership = Ownership::default();
    look(&mut ownership, us(1), false, NOW);
    assert_eq!(look(&mut ownership, us(2), true, NOW), taken(true));
}

#[test]
fn what_could_not_be_taken_over_is_tried_again_and_arrives_until_then() {
    let mut ownership = arriving(us(1));
    let (_, at) = wait(&mut ownership, us(1));
    ownership.not_taken(&key(1), at);
    assert!(!ownership.owns(&key(1)) && !ownership.tells(&key(1)));
    assert!(ownership.arrives(&key(1)));
    assert_eq!(wait(&mut ownership, us(1)), (arrived(), at + RETRY + STEP));

    let mut ownership = Ownership::default();
    let alone = |ownership: &mut Ownership<u64>| look(ownership, Master::Uncontested, false, NOW);
    assert_eq!(alone(&mut ownership), taken(false));
    ownership.not_taken(&key(1), NOW);
    assert_eq!(alone(&mut ownership), taken(false));
}

#[test]
fn what_a_configuration_does_not_have_is_nobodys() {
    let mut ownership = Ownership::default();
    let services = |numbers: &[u8]| {
        let services = numbers.iter().map(|number| (key(*number), us(1)));
        services.collect::<Vec<_>>()
    };
    ownership.look(services(&[1, 2]), |_| false, NOW);
    ownership.disown_all_but(&[key(2)].into());
    assert!(ownership.owns(&key(1)) && !ownership.tells(&key(1)));
    ownership.look(services(&[2]), |_| false, NOW);
    assert!(!ownership.owns(&key(1)) && ownership.owns(&key(2)));
    assert_eq!(ownership.handed_over(), 0);
    let back = ownership.look(services(&[1, 2]), |_| false, NOW);
    assert_eq!(back, taken(false), "it is new");
}

/// What two balancers know of one service.
#[derive(Default)]
struct Two {
    now: Duration,
    balancers: [Ownership<u64>; 2],
    /// Whether each tells the other of it, and has said that it is its own.
    tells: [bool; 2],
    masters: [Option<u64>; 2],
    terms: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// One becomes master, or is not any more.
    Turn(usize, bool),
    Wait(u64),
    Look(usize),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..2_usize, any::<bool>()).prop_map(|(node, is_master)| Step::Turn(node, is_master)),
        2 => (1..4_000_u64).prop_map(Step::Wait),
        4 => (0..2_usize).prop_map(Step::Look),
        1 => Just(Step::Reconnect),
    ]
}

impl Two {
    fn look(&mut self, node: usize) {
        let master = self.masters[node].map_or(Master::Other, us);
        let is_told = self.tells[1 - node];
        let turn = look(&mut self.balancers[node], master, is_told, self.now);
        for taken in &turn.taken {
            assert!(taken.has_arrived || taken.was_lost || !is_told, "{taken:?}");
        }
        assert!(turn.asked.iter().all(|key| !self.balancers[node].arrives(key)));
        let tells = self.balancers[node].tells(&key(1));
        if tells && !std::mem::replace(&mut self.tells[node], tells) {
            self.introduce(node);
        }
        self.tells[node] = tells;
        // What was said of it before had no effect.
        if !turn.asked.is_empty() && self.balancers[1 - node].tells(&key(1)) {
            self.introduce(1 - node);
        }
    }

    /// One says that it is its own.
    fn introduce(&mut self, node: usize) {
        if self.balancers[1 - node].introduced(&key(1)).is_some() {
            self.tells[1 - node] = false;
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Turn(node, is_master) => {
                self.terms += 1;
                self.masters[node] = is_master.then_some(self.terms);
            }
            Step::Wait(milliseconds) => self.now += Duration::from_millis(milliseconds),
            Step::Look(node) => self.look(node),
            Step::Reconnect => {
                self.tells = [false; 2];
                self.balancers.iter_mut().for_each(Ownership::connected);
                (0..2).for_each(|node| self.look(node));
            }
        }
    }
}

proptest! {
    #[test]
    fn the_only_master_is_the_owner_and_the_only_one_that_tells(
        steps in prop::collection::vec(step(), 0..60),
        master in 0..2_usize,
    ) {
        let mut two = Two::default();
        two.take(Step::Reconnect);
        for step in steps {
            two.take(step);
            for (node, ownership) in two.balancers.iter().enumerate() {
                prop_assert!(ownership.arriving().all(|key| !ownership.owns(&key)));
                if let Some(due) = ownership.due() {
                    prop_assert!(due <= two.now + STEP, "{node} waits for too long");
                }
            }
        }
        // Whatever has happened, now there is one, and all is looked at when it is due.
        two.take(Step::Turn(master, true));
        two.take(Step::Turn(1 - master, false));
        two.look(1 - master);
        two.look(master);
        while let Some(due) = two.balancers[master].due() {
            two.now = due;
            two.look(master);
        }
        let [owner, other] = [&two.balancers[master], &two.balancers[1 - master]];
        prop_assert!(owner.owns(&key(1)) && !other.owns(&key(1)));
        prop_assert!(owner.tells(&key(1)) && other.handed_over() == 0, "{other:?}");
    }
}
