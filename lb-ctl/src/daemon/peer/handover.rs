//! Handing over on purpose: to a peer that knows what it gets.

use std::time::Duration;

use super::Running;
use crate::{
    adapters::{
        api::server::{Answer, HandOverQuery, Refusal},
        peer::Connection,
    },
    core::{config::moving_with, time::milliseconds},
    daemon::controller::Controller,
};

/// How far behind a peer may be that is told of nothing but what changes.
const BEHIND: Duration = Duration::from_secs(1);

impl Controller {
    /// Has another balancer be master, unless the peer lacks something.
    pub(in crate::daemon) fn hand_over(&self, query: HandOverQuery, answer: Answer<Vec<String>>) {
        match self.objection(query.instance.as_deref()).filter(|_| !query.force) {
            // Whoever asked may have gone; that is their business.
            Some(why) => drop(answer.send(Err(Refusal::Declined(why)))),
            None => self.vrrp.hand_over(query.instance, answer),
        }
    }

    /// What speaks against handing over an instance, or all: the peer does not know all of its connections. Nothing if there is no peer, who
    /// could know any, or no service that would be handed over.
    fn objection(&self, instance: Option<&str>) -> Option<String> {
        let Running { link, .. } = self.pair.running.as_ref()?;
        let tenures = self.vrrp.tenures();
        let moves = |vip| {
            let is_master = tenures.get(&vip).is_some_and(|tenure| tenure.lasts);
            is_master && moving_with(&self.config.vrrp, instance).any(|it| it.addresses.contains(&vip))
        };
        let mut services = self.config.services.iter();
        services
            .any(|service| moves(service.vip))
            .then(|| objection(&link.board().read()))
            .flatten()
    }
}

fn objection(connection: &Connection) -> Option<String> {
    let lag = connection.behind_since.map(|since| since.elapsed());
    let (found, remedy) = match connection {
        Connection {
            peer: None, trouble, ..
        } => {
            let why = trouble.as_ref().map(|why| format!(" ({why})"));
            (
                format!("it is not connected{}", why.unwrap_or_default()),
                "have the two connect",
            )
        }
        Connection {
            is_up_to_date: false, ..
        } => (
            "it has not been told everything yet".to_owned(),
            "wait until `lb-ctl status` there says `following`",
        ),
        _ => {
            let lag = lag.filter(|lag| *lag > BEHIND)?;
            (
                format!("it is {} ms behind", milliseconds(lag)),
                "wait until `lb-ctl status` says that it is not",
            )
        }
    };
    Some(format!(
        "expected the peer to know all connections that would be handed over to it, found that {found}: some of them would break; \
         {remedy}, or hand over all the same with --force"
    ))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn only_a_peer_that_knows_everything_is_handed_over_to() {
        let knows_all = Connection {
            peer: Some(("lb2".to_owned(), "1.0.0".to_owned())),
            trouble: Some("it was away".to_owned()),
            behind_since: Some(Instant::now()),
            is_up_to_date: true,
        };
        assert_eq!(objection(&knows_all), None);
        let is_told = Connection {
            is_up_to_date: false,
            ..knows_all.clone()
        };
        let is_slow = Connection {
            behind_since: Instant::now().checked_sub(BEHIND * 2),
            ..knows_all.clone()
        };
        let is_away = Connection {
            peer: None,
            ..knows_all
        };
        for (connection, expected) in [
            (is_told, "not been told everything"),
            (is_slow, "ms behind"),
            (is_away, "not connected (it was away)"),
            (Connection::default(), "not connected:"),
        ] {
            let objection = objection(&connection).unwrap_or_default();
            assert!(
                objection.contains(expected) && objection.contains("--force"),
                "{objection}"
            );
        }
    }
}
