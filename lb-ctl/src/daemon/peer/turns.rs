//! What happens on the connection to the peer, each event in its turn.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep},
};

use crate::core::sync::Allowance;

/// How often is looked for somebody else before something is done whose turn has not come: once that the kernel's news are noticed, once that
/// tasks make something of them, and once that what they have made is taken.
const LOOKS: u32 = 3;

/// Waits until nobody else has anything to do.
async fn after_others() {
    for _ in 0..LOOKS {
        yield_now().await;
    }
}

/// Something that is done again and again, each time taking some of the controller's time.
pub(super) struct Pace {
    allowance: Allowance,
    /// From when on is counted.
    began: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            allowance: Allowance::default(),
            began: Instant::now(),
        }
    }
}

impl Pace {
    /// Waits for its turn: at once if nobody else has anything to do. To be waited for beside all else.
    pub(super) async fn turn(&self) {
        if !self.allowance.is_due(self.began.elapsed()) {
            after_others().await;
        }
    }

    /// Waits for so long, and then for its turn.
    pub(super) async fn turn_in(&self, wait: Duration) {
        // Not even for no time: that would let others go first, whether or not it is due.
        if !wait.is_zero() {
            sleep(wait).await;
        }
        self.turn().await;
    }

    /// What was done last has taken so much time.
    pub(super) fn took(&mut self, time: Duration) {
        self.allowance.take(time, self.began.elapsed());
    }
}

/// The events of a connection, each in its turn.
pub(super) struct Turns<T> {
    events: mpsc::Receiver<T>,
    /// What has happened, and whose turn is still to come.
    waiting: Option<T>,
    pace: Pace,
}

impl<T> Turns<T> {
    pub(super) fn of(events: mpsc::Receiver<T>) -> Self {
        Self {
            events,
            waiting: None,
            pace: Pace::default(),
        }
    }

    /// The next one, at once if nobody else has anything to do; `None` if there is none any more. To be waited for beside all else: whoever gives
    /// up waiting loses nothing.
    pub(super) async fn next(&mut self) -> Option<T> {
        if self.waiting.is_none() {
            self.waiting = Some(self.events.recv().await?);
        }
        self.pace.turn().await;
        self.waiting.take()
    }

    /// The one that came last has taken so much time.
    pub(super) fn took(&mut self, time: Duration) {
        self.pace.took(time);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// With some that wait, and whose turn comes in a second if somebody else waits too.
    fn turns(waiting: &[&'static str]) -> Turns<&'static str> {
        let (sender, events) = mpsc::channel(8);
        for &event in waiting {
            sender.try_send(event).unwrap();
        }
        let mut turns = Turns::of(events);
        turns.took(Duration::from_secs(1));
        turns
    }

    /// As much of something else as there is room for.
    fn others() -> (mpsc::Sender<&'static str>, mpsc::Receiver<&'static str>) {
        let (sender, others) = mpsc::channel(100);
        while sender.try_send("other").is_ok() {}
        (sender, others)
    }

    async fn whoever_is_first(
        turns: &mut Turns<&'static str>,
        others: &mut mpsc::Receiver<&'static str>,
    ) -> &'static str {
        tokio::select! {
            Some(event) = turns.next() => event,
            Some(other) = others.recv() => other,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_nobody_else_waits_there_is_no_pause() {
        let mut turns = turns(&["one", "two"]);
        let begun = Instant::now();
        assert_eq!(turns.next().await, Some("one"));
        turns.took(Duration::from_secs(10));
        assert_eq!(turns.next().await, Some("two"));
        assert_eq!(turns.next().await, None);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_waits_goes_first() {
        let (mut turns, (_sender, mut others)) = (turns(&["peer"]), others());
        for _ in 0..100 {
            assert_eq!(whoever_is_first(&mut turns, &mut others).await, "other");
        }
        assert_eq!(whoever_is_first(&mut turns, &mut others).await, "peer");
    }

    #[tokio::test(start_paused = true)]
    async fn so_does_what_another_task_has_yet_to_make_something_of() {
        let (mut turns, (sender, mut others)) = (turns(&["peer"]), mpsc::channel(1));
        tokio::spawn(async move {
            yield_now().await;
            let _ = sender.send("other").await;
        });
        assert_eq!(whoever_is_first(&mut turns, &mut others).await, "other");
        assert_eq!(whoever_is_first(&mut turns, &mut others).await, "peer");
    }

    #[tokio::test(start_paused = true)]
    async fn others_without_end_do_not_keep_it_waiting_for_ever() {
        let (mut turns, (sender, mut others)) = (turns(&["peer"]), others());
        advance(Duration::from_secs(1)).await;
        while whoever_is_first(&mut turns, &mut others).await != "peer" {
            sender.try_send("other").unwrap();
        }
    }

    /// Each time that somebody else is first, whoever waits begins anew.
    /// In real time: a paused clock has no timer that comes late.
    #[tokio::test]
    async fn neither_do_they_keep_what_need_not_wait_any_more() {
        let (_sender, mut others) = others();
        let pace = Pace::default();
        sleep(Duration::from_millis(100)).await;
        for _ in 0..3 {
            let who = tokio::select! {
                biased;
                () = pace.turn_in(Duration::ZERO) => "deletions",
                other = others.recv() => other.unwrap(),
            };
            assert_eq!(who, "deletions");
        }
    }
}
