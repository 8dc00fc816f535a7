//! Guards the simulation: what it is about must happen in it.

use super::*;

/// With the first balancer, one of the two backends of the first service is drained, and somebody comes whom the other one does not know.
fn replace_a_backend(pair: &mut Pair) {
    let weights = [
        [Some(1), None, Some(1), None],
        [None; 4],
        [Some(1), None, None, None],
    ];
    pair.perform(&PairStep::To(0, Step::Configure(weights))).unwrap();
}

/// Connections must live on, with records and without, and for longer than anything that was told of them.
#[test]
fn connections_of_all_kinds_and_a_drain_outlive_takeovers_back_and_forth() {
    let mut pair = Pair::new(ConfigDuration::from_millis(100_000));
    pair.connect(0..4);
    replace_a_backend(&mut pair);
    pair.connect(4..PORTS);
    for round in 1..5 {
        let owner = pair.owner[0];
        pair.perform(&PairStep::TellAll(owner)).unwrap();
        for _ in 0..3 {
            pair.perform(&PairStep::Live(250)).unwrap();
        }
        pair.perform(&PairStep::TakeOver(0, None, true)).unwrap();
        assert_eq!(pair.takeovers.survivors, round * usize::from(PORTS));
        assert!(pair.takeovers.recorded >= round, "{:?}", pair.takeovers);
        pair.perform(&PairStep::Live(1)).unwrap();
    }
    let world = &pair.balancers[pair.owner[0]].world;
    assert_eq!(world.connections.len(), usize::from(PORTS));
    assert!(
        world.placement.leaving(world.service_id(0).unwrap()).count() > 0,
        "the drain goes on"
    );
}

/// One half of the clients opens connections through the former owner, which tells on, the other half through the next one; then those
/// hear of it too.
#[test]
fn connections_that_begin_while_a_service_arrives_live_on() {
    let mut pair = Pair::new(ConfigDuration::from_millis(100_000));
    pair.perform(&PairStep::TellAll(0)).unwrap();
    // A slot moves, and the peer has not heard of it.
    replace_a_backend(&mut pair);
    pair.perform(&PairStep::Arrive(0)).unwrap();
    pair.connect(0..PORTS);
    let at = |pair: &Pair, node: usize| pair.balancers[node].world.connections.len();
    assert_eq!([at(&pair, 0), at(&pair, 1)], [usize::from(PORTS) / 2; 2]);
    pair.perform(&PairStep::TellAll(0)).unwrap();
    pair.perform(&PairStep::Hear((0, 0))).unwrap();
    assert_eq!(at(&pair, 1), usize::from(PORTS) / 2 + 1);
    pair.perform(&PairStep::TakeOver(0, None, true)).unwrap();
    assert_eq!(at(&pair, 1), usize::from(PORTS));
    assert!(pair.takeovers.recorded > 0, "{:?}", pair.takeovers);
    pair.perform(&PairStep::Live(1)).unwrap();
    // And the former owner knows them all.
    pair.perform(&PairStep::TellAll(1)).unwrap();
    assert_eq!(pair.balancers[0].known.len(), usize::from(PORTS));
}

/// Half of the clients have gone through the new master when the former one has it back, which has been told of them; and that again.
#[test]
fn connections_that_have_begun_where_a_service_was_arriving_live_on_when_it_turns_back() {
    let mut pair = Pair::new(ConfigDuration::from_millis(100_000));
    pair.perform(&PairStep::TellAll(0)).unwrap();
    replace_a_backend(&mut pair);
    let at = |pair: &Pair, node: usize| pair.balancers[node].world.connections.len();
    let half = PORTS / 2;
    for (ports, begun) in [(0..half, half), (half..PORTS, PORTS)] {
        pair.perform(&PairStep::TellAll(0)).unwrap();
        pair.perform(&PairStep::Arrive(0)).unwrap();
        pair.connect(ports);
        assert_eq!(at(&pair, 1), usize::from(half) / 2);
        pair.perform(&PairStep::TellAll(1)).unwrap();
        pair.perform(&PairStep::TurnBack(0)).unwrap();
        assert_eq!([at(&pair, 0), at(&pair, 1)], [usize::from(begun), 0]);
    }
    assert!(pair.takeovers.recorded > 0, "{:?}", pair.takeovers);
    // And the other one knows them all.
    pair.perform(&PairStep::TellAll(0)).unwrap();
    assert_eq!(pair.balancers[1].known.len(), usize::from(PORTS));
}
