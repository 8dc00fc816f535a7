//! Backends of which others say that they are shutting down.

use super::*;

/// What a page says of this process that was read at this time.
fn said(process: &str, read: Duration) -> Announcement {
    Announcement {
        process: process.to_owned(),
        read,
        cause: format!("is shutting down, as read after {} s", read.as_secs()),
    }
}

impl World {
    /// Takes in what is said of the first backend, and decides. Returns what its health has become.
    fn hear(&mut self, said: Option<&Announcement>) -> Option<Health> {
        let health = self.serving.announce_quiescing("b0", said, self.now);
        self.decide();
        health
    }

    fn first(&self) -> (Health, u32) {
        let backend = &self.serving.backends()[0];
        (backend.health(), self.decision.backends[0].weight)
    }
}

#[test]
fn who_is_said_to_shut_down_gets_no_new_connections_and_keeps_its_own() {
    let mut world = World::up("on_down = \"reset\"", &[0, 0]);
    let first = said("1", world.now);
    assert_eq!(world.hear(Some(&first)), Some(Health::Quiescing));
    world.pass(A_WHILE);
    let later = said("1", world.now);
    assert_eq!(world.hear(Some(&later)), None);
    let now = world.now;
    let of_a_stranger = world.serving.announce_quiescing("stranger", Some(&later), now);
    assert_eq!(of_a_stranger, None);
    world.pass(A_WHILE);
    let shed = Part {
        weight: 0,
        sheds: true,
        drains: false,
        reset: false,
    };
    assert_eq!(world.decision.backends[0], shed);
    let backend = &world.serving.backends()[0];
    assert_eq!(
        (backend.health(), backend.cause()),
        (Health::Quiescing, later.cause.as_str())
    );
    assert_eq!(world.decision.backends[1].weight, 1);
    // Once it is down, it is down.
    world.truth[0] = REFUSED;
    world.pass(A_WHILE);
    assert_eq!(world.serving.backends()[0].health(), Health::Down);
    assert!(world.decision.backends[0].reset);
    world.truth[0] = Healthy;
    assert_eq!(world.hear(None), None, "its own check had the last word already");
    world.pass(A_WHILE);
    assert_eq!(world.first(), (Health::Up, 1));
}

#[test]
fn a_page_that_is_out_of_date_says_nothing_of_a_process_that_was_replaced() {
    let mut world = World::up("", &[0, 0]);
    world.processes[0] = Some("monday");
    world.pass(A_WHILE);
    let stale = said("1", world.now);
    world.hear(Some(&stale));
    world.pass(A_WHILE);
    assert_eq!(world.first(), (Health::Quiescing, 0));
    world.processes[0] = Some("tuesday");
    world.pass(A_WHILE);
    assert_eq!(world.first(), (Health::Up, 1));
    // Each seed that fails to answer has the last page repeated; another may have been told nothing newer.
    assert_eq!(world.hear(Some(&stale)), None);
    let repeated = said("1", world.now);
    assert_eq!(world.hear(Some(&repeated)), None);
    world.pass(A_WHILE);
    assert_eq!(world.first(), (Health::Up, 1));
    let of_the_new_one = said("2", world.now);
    assert_eq!(world.hear(Some(&of_the_new_one)), Some(Health::Quiescing));
    assert_eq!(world.first(), (Health::Quiescing, 0));
    assert_eq!(world.hear(None), Some(Health::Up));
    assert_eq!(world.first(), (Health::Up, 1));
}

#[test]
fn what_a_coordinator_says_itself_is_not_said_anew_by_pages() {
    let mut world = World::up("", &[0, 0]);
    world.truth[0] = Quiescing;
    world.pass(A_WHILE);
    let now = world.now;
    assert_eq!(world.hear(Some(&said("1", now))), None);
    assert_eq!(world.hear(None), None);
    assert_eq!(world.first(), (Health::Quiescing, 0));
}

#[test]
fn who_was_down_and_is_up_again_shuts_down_only_if_it_is_said_anew() {
    // Its check is not told of processes.
    let mut world = World::up("", &[0, 0]);
    let stale = said("1", world.now);
    world.hear(Some(&stale));
    world.truth[0] = REFUSED;
    world.pass(A_WHILE);
    assert_eq!(world.first(), (Health::Down, 0));
    world.truth[0] = Healthy;
    world.pass(A_WHILE);
    assert_eq!(world.first(), (Health::Up, 1));
    assert_eq!(world.hear(Some(&stale)), None, "as if no page could be read");
    world.pass(A_WHILE);
    assert_eq!(world.first(), (Health::Up, 1));
    let anew = said("1", world.now);
    assert_eq!(world.hear(Some(&anew)), Some(Health::Quiescing));
    assert_eq!(world.first(), (Health::Quiescing, 0));
}
