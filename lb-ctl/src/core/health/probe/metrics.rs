//! The page `/jsonmetrics` of Impala's daemons: one flat object of names and values.

use serde_json::{Map, Value};

use super::super::outcome::{Failure, Load, Verdict};
use super::Finding;

/// The client ports of a coordinator, as the names of their metrics spell them.
const FRONTENDS: [&str; 3] = [
    "hiveserver2-frontend",
    "hiveserver2-http-frontend",
    "beeswax-frontend",
];

/// The metrics that tell which of a pair is active, of catalogd and of statestored.
const ACTIVE_STATUS: [&str; 2] = ["catalog-server.active-status", "statestore.active-status"];

/// The figures of the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    values: Map<String, Value>,
}

impl Metrics {
    /// Reads the page. `None` if it is not a JSON object.
    pub fn parse(page: &[u8]) -> Option<Self> {
        let values = serde_json::from_slice(page).ok()?;
        Some(Self { values })
    }

    /// How busy the coordinator is.
    pub fn load(&self) -> Load {
        let of_ports = |figure: &str| {
            let name = |frontend| format!("impala.thrift-server.{frontend}.{figure}");
            sum(FRONTENDS
                .iter()
                .filter_map(|frontend| self.number(&name(frontend))))
        };
        let queued = self
            .values
            .keys()
            .filter(|name| name.starts_with("admission-controller.local-num-queued."))
            .filter_map(|name| self.number(name));
        Load {
            connections: of_ports("connections-in-use"),
            waiting_connections: of_ports("connection-setup-queue-size"),
            queries: self.number("impala-server.num-queries-registered"),
            fragments: self.number("impala-server.num-fragments-in-flight"),
            sessions: self.number("impala-server.num-open-hiveserver2-sessions"),
            queued_queries: sum(queued),
        }
    }

    /// When the process started, in its own words.
    pub fn process_start_time(&self) -> Option<String> {
        let text = self.values.get("process-start-time")?.as_str()?;
        // It is kept and compared: a page that sends a novel instead is not believed.
        (!text.is_empty() && text.len() <= 64).then(|| text.to_owned())
    }

    /// Whether the daemon is the active one of its pair, by the metric of that name, or by those that Impala's daemons have.
    pub fn active_status(&self, metric: Option<&str>) -> Finding {
        let names = match &metric {
            Some(metric) => std::slice::from_ref(metric),
            None => &ACTIVE_STATUS[..],
        };
        let found = names
            .iter()
            .find_map(|name| self.values.get(*name).map(|value| (name, value)));
        let Some((name, value)) = found else {
            let expected = names.join(" or ");
            return Finding::new(
                Verdict::Failed(Failure::Failing),
                format!("expected the metric {expected}, found none of that name"),
            );
        };
        match as_truth(value) {
            Some(true) => Finding::new(Verdict::Healthy, format!("active: {name} is {value}")),
            Some(false) => Finding::new(
                Verdict::Failed(Failure::Standby),
                format!("standby: {name} is {value}"),
            ),
            None => Finding::new(
                Verdict::Failed(Failure::Failing),
                format!("expected {name} to be true or false, found {value}"),
            ),
        }
    }

    /// A count: not negative, though some pages write it with a decimal point.
    fn number(&self, name: &str) -> Option<u64> {
        let value = self.values.get(name)?;
        value.as_u64().or_else(|| {
            let number = value.as_f64().filter(|number| (0.0..9e15).contains(number))?;
            // Within the bounds above nothing but the fraction is lost.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some(number as u64)
        })
    }
}

fn as_truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => Some(number.as_f64()? > 0.0),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The sum of what is there; `None` if nothing is.
fn sum(numbers: impl Iterator<Item = u64>) -> Option<u64> {
    numbers.reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn metrics(page: &str) -> Metrics {
        Metrics::parse(page.as_bytes()).unwrap()
    }

    #[test]
    fn the_load_is_read() {
        let load = metrics(
            r#"{
            "impala.thrift-server.hiveserver2-frontend.connections-in-use": 3,
            "impala.thrift-server.beeswax-frontend.connections-in-use": 2.0,
            "impala.thrift-server.hiveserver2-frontend.connection-setup-queue-size": 1,
            "impala-server.num-queries-registered": 7,
            "impala-server.num-fragments-in-flight": -1,
            "impala-server.num-open-hiveserver2-sessions": "5",
            "admission-controller.local-num-queued.default-pool": 4,
            "admission-controller.local-num-queued.root.etl": 5,
            "process-start-time": "2026-01-02 03:04:05.000006"
            }"#,
        );
        let expected = Load {
            connections: Some(5),
            waiting_connections: Some(1),
            queries: Some(7),
            fragments: None,
            sessions: None,
            queued_queries: Some(9),
        };
        assert_eq!(load.load(), expected);
        assert_eq!(
            load.process_start_time().as_deref(),
            Some("2026-01-02 03:04:05.000006")
        );
    }

    #[test]
    fn what_is_missing_is_absent() {
        let empty = metrics("{}");
        assert_eq!(
            (empty.load(), empty.process_start_time()),
            (Load::default(), None)
        );
        for page in ["", "[]", "null", "{", "<html></html>"] {
            assert_eq!(Metrics::parse(page.as_bytes()), None, "{page}");
        }
    }

    #[test]
    fn the_active_one_of_a_pair_is_told_apart() {
        let verdict = |page: &str, metric| metrics(page).active_status(metric).verdict;
        let standby = Verdict::Failed(Failure::Standby);
        let failing = Verdict::Failed(Failure::Failing);
        assert_eq!(
            verdict(r#"{"catalog-server.active-status": true}"#, None),
            Verdict::Healthy
        );
        assert_eq!(verdict(r#"{"statestore.active-status": false}"#, None), standby);
        assert_eq!(
            verdict(r#"{"statestore.active-status": "true"}"#, None),
            Verdict::Healthy
        );
        assert_eq!(verdict(r#"{"leader": 0}"#, Some("leader")), standby);
        assert_eq!(verdict(r#"{"leader": 1}"#, Some("leader")), Verdict::Healthy);
        assert_eq!(verdict(r#"{"leader": 1}"#, None), failing);
        assert_eq!(verdict(r#"{"leader": []}"#, Some("leader")), failing);
    }

    proptest! {
        #[test]
        fn any_page_is_read(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            value in "null|true|-1|1e99|18446744073709551615|\"x\"|\\[1\\]|\\{\\}",
        ) {
            Metrics::parse(&bytes);
            let names = [
                "impala.thrift-server.hiveserver2-frontend.connections-in-use",
                "admission-controller.local-num-queued.a",
                "admission-controller.local-num-queued.b",
                "process-start-time",
                "catalog-server.active-status",
            ];
            let page = names.map(|name| format!("\"{name}\": {value}")).join(",");
            let metrics = metrics(&format!("{{{page}}}"));
            metrics.load();
            metrics.process_start_time();
            metrics.active_status(None);
        }

        #[test]
        fn a_page_cut_short_is_no_page(end in 0_usize..30) {
            let page = br#"{"statestore.active-status":1}"#;
            prop_assert_eq!(Metrics::parse(&page[..end]), None);
        }
    }
}
