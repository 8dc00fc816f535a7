//! What came of the demo: who counted what, and whether that is as it should be.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use lb_ctl::core::status::BackendStatus;

use super::workload::Answers;
use crate::balancing::Coordinator;

/// What the three parties have counted for one coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The coordinator's name.
    pub name: String,
    /// Connections that the clients found at it.
    pub connections: u64,
    /// Queries that it answered, as the clients saw it.
    pub queries: u64,
    /// Statements that it finished, as it says itself; `None` if it does not answer.
    pub statements: Option<u64>,
    /// New flows that the balancer sent to it.
    pub new_flows: u64,
    /// Packets that the balancer sent to it.
    pub packets: u64,
    /// Bytes that the balancer sent to it.
    pub bytes: u64,
}

impl Row {
    /// Collects the counts.
    pub fn of(coordinator: &Coordinator, answers: &Answers, backends: &[BackendStatus]) -> Result<Self> {
        let name = &coordinator.name;
        let of_clients = |counts: &BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
        let backend = backends
            .iter()
            .find(|backend| backend.name == *name)
            .with_context(|| format!("the balancer does not know {name}"))?;
        Ok(Self {
            name: name.clone(),
            connections: of_clients(&answers.connections),
            queries: of_clients(&answers.queries),
            statements: coordinator
                .state()
                .ok()
                .map(|state| state.coordinator.queries_finished),
            new_flows: backend.new_flows,
            packets: backend.packets,
            bytes: backend.bytes,
        })
    }
}

/// The counts side by side.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "              seen by the clients        by the coordinator   by the balancer\n\
         coordinator   connections    queries     statements           new flows    packets    bytes\n",
    );
    for row in rows {
        let Row {
            name,
            connections,
            queries,
            new_flows,
            packets,
            bytes,
            ..
        } = row;
        let statements = row
            .statements
            .map_or_else(|| "-".to_owned(), |count| count.to_string());
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{name:<13} {connections:>11} {queries:>10} {statements:>14} {new_flows:>19} {packets:>10} {bytes:>8}"
        );
    }
    text
}

/// What is not as it should be, a line for each.
pub fn problems(answers: &Answers, rows: &[Row]) -> Vec<String> {
    // Those of coordinators come first: they are few, and explain the others.
    let mut problems = Vec::new();
    for row in rows {
        let Row {
            name,
            connections,
            queries,
            new_flows,
            ..
        } = row;
        if *queries == 0 {
            problems.push(format!("{name} got no query"));
        }
        if row.statements.is_none() {
            problems.push(format!("{name} does not answer any more"));
        }
        if new_flows < connections {
            problems.push(format!(
                "the balancer counted {new_flows} new flows for {name}, the clients made {connections}: they did not all go \
                 through it"
            ));
        }
    }
    problems.extend(answers.failures.iter().cloned());
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> Row {
        Row {
            name: name.into(),
            connections: 10,
            queries: 30,
            statements: Some(40),
            new_flows: 10,
            ..Row::default()
        }
    }

    #[test]
    fn all_served_and_nothing_failed_is_no_problem() {
        assert_eq!(
            problems(&Answers::default(), &[row("impala1"), row("impala2")]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_failed_query_is_a_problem() {
        let answers = Answers {
            failures: vec!["connection 3: timed out".into()],
            ..Answers::default()
        };
        assert_eq!(problems(&answers, &[row("impala1")]), ["connection 3: timed out"]);
    }

    #[test]
    fn a_coordinator_without_queries_is_a_problem() {
        let idle = Row {
            connections: 0,
            queries: 0,
            new_flows: 0,
            ..row("impala2")
        };
        assert_eq!(
            problems(&Answers::default(), &[row("impala1"), idle]),
            ["impala2 got no query"]
        );
    }

    #[test]
    fn a_coordinator_that_has_died_is_a_problem() {
        let dead = Row {
            statements: None,
            ..row("impala1")
        };
        assert_eq!(
            problems(&Answers::default(), &[dead]),
            ["impala1 does not answer any more"]
        );
    }

    #[test]
    fn connections_that_the_balancer_has_not_seen_are_a_problem() {
        let around = Row {
            new_flows: 9,
            ..row("impala1")
        };
        let problems = problems(&Answers::default(), &[around]);
        assert!(problems[0].contains("did not all go through it"), "{problems:?}");
    }
}
