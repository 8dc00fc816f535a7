//! `[service.discovery]`: where the backends of a service are read from, besides the file.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::assemble::value_or;
use super::check::CheckTls;
use super::choice::{CheckKind, DiscoveryKind, Forward};
use super::duration::ConfigDuration;
use super::error::{ConfigError, Origin};
use super::reader::{At, TableReader};
use super::value::{self, shown};

const INTERVALS: RangeInclusive<ConfigDuration> =
    ConfigDuration::from_millis(1_000)..=ConfigDuration::from_millis(3_600_000);
const TIMEOUTS: RangeInclusive<ConfigDuration> =
    ConfigDuration::from_millis(100)..=ConfigDuration::from_millis(60_000);

/// The statestore tells coordinators of each other every few seconds; who leaves says so by its health at once.
const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);
/// The web pages of an impalad.
const WEB_PORT: u16 = 25000;
/// A single page may be out of date, or short after a restart of its coordinator.
const LEAST_SEEDS: usize = 2;
/// Each is asked once an interval.
const MOST_SEEDS: usize = 16;

/// Where the backends of a service are read from, besides the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// What the seeds are.
    pub kind: DiscoveryKind,
    /// The coordinators whose pages are read, in the order of the file; at least two, each once.
    pub seeds: Vec<Seed>,
    /// From the begin of one reading of a page to the begin of the next.
    pub interval: Duration,
    /// How long one reading may take in all.
    pub timeout: Duration,
    /// The port on which discovered backends serve.
    pub port: u16,
    /// Our address that connections to the seeds come from; `None` leaves that to the routes.
    pub source: Option<IpAddr>,
    /// Whom to trust; `None` if the pages come without TLS. Without a name of its own each seed must bear its host's.
    pub tls: Option<CheckTls>,
    /// Where the table begins.
    pub origin: Origin,
}

/// A coordinator whose page is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seed {
    /// A DNS name, or an address without brackets.
    pub host: String,
    /// The port of its web pages.
    pub port: u16,
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// The table as written.
#[derive(Debug)]
pub(super) struct DiscoveryKeys {
    /// Where the table begins; `None` if there is none.
    origin: Option<Origin>,
    has_kind: bool,
    has_seeds: bool,
    kind: Option<At<DiscoveryKind>>,
    seeds: Vec<At<Seed>>,
    interval: Option<At<Duration>>,
    timeout: Option<At<Duration>>,
    port: Option<At<u16>>,
    source: Option<At<IpAddr>>,
    tls: Option<At<bool>>,
    ca_file: Option<At<PathBuf>>,
    server_name: Option<At<String>>,
    verify: Option<At<bool>>,
}

impl DiscoveryKeys {
    /// Reads the table, which reads as an empty one if it is not there.
    pub(super) fn read(table: &mut TableReader<'_, '_>, is_present: bool) -> Self {
        Self {
            origin: is_present.then(|| table.origin().clone()),
            has_kind: table.mentions("type"),
            has_seeds: table.mentions("seeds"),
            kind: table.optional("type", value::choice),
            seeds: table.optional_list("seeds", EXAMPLE, seed),
            interval: table.optional("interval", |value| {
                value::duration(value, INTERVALS, "leave the key out to get \"10s\"").map(Duration::from)
            }),
            timeout: table.optional("timeout", |value| {
                value::duration(value, TIMEOUTS, "leave the key out to get \"5s\"").map(Duration::from)
            }),
            port: table.optional("port", value::port),
            source: table.optional("source", value::address),
            tls: table.optional("tls", value::boolean),
            ca_file: table.optional("ca_file", value::file),
            server_name: table.optional("server_name", value::host_name),
            verify: table.optional("verify", value::boolean),
        }
    }

    /// Reports keys that are missing, and those that contradict each other or the service's.
    pub(super) fn report_conflicts(
        &self,
        check: CheckKind,
        forward: Forward,
        service_port: Option<u16>,
        errors: &mut Vec<ConfigError>,
    ) {
        let Some(origin) = &self.origin else { return };
        let missing = |key: &str, message: String| {
            ConfigError::at(origin.line, format!("{}.{key}", origin.key), message)
        };
        if !self.has_kind {
            errors.push(missing(
                "type",
                "expected this key, found none; add `type = \"impala\"`".into(),
            ));
        }
        if !self.has_seeds {
            errors.push(missing(
                "seeds",
                format!("expected this key, found none; {EXAMPLE}"),
            ));
        }
        self.report_seeds(errors);
        if check == CheckKind::None {
            errors.push(origin.error(
                "expected a check beside discovery, found none: a coordinator that has died stays on the pages for a while; add \
                 [service.check] with `type = \"impala\"`",
            ));
        }
        if let (Some(port), Some(service_port)) = (&self.port, service_port)
            && forward != Forward::Nat
            && port.value != service_port
        {
            errors.push(port.origin.error(format!(
                "expected {service_port}, the service's port, found {}; forward = \"{forward}\" leaves the port in the packets \
                 as it is: remove the key",
                port.value
            )));
        }
        if let (Some(timeout), interval) = (&self.timeout, self.interval())
            && timeout.value > interval
        {
            errors.push(timeout.origin.error(format!(
                "expected at most the interval, {}, found {}; lower it or raise the interval",
                ConfigDuration::from(interval),
                ConfigDuration::from(timeout.value)
            )));
        }
        self.report_tls(errors);
    }

    fn report_seeds(&self, errors: &mut Vec<ConfigError>) {
        for (index, seed) in self.seeds.iter().enumerate() {
            let earlier = self.seeds.iter().take(index);
            if let Some(first) = earlier.rev().find(|earlier| earlier.value == seed.value) {
                errors.push(seed.origin.error(format!(
                    "expected each seed once, found {} a second time (first on line {}); name another coordinator",
                    seed.value, first.origin.line
                )));
            }
        }
        if let [only] = self.seeds.as_slice() {
            let list = only.origin.key.trim_end_matches(|last| last != '[');
            // One that was refused has been reported, and is not missed here as well.
            if !errors.iter().any(|error| error.key().starts_with(list)) {
                errors.push(only.origin.error(format!(
                    "expected at least {LEAST_SEEDS} seeds, found one, whose page may be out of date; name another coordinator"
                )));
            }
        }
        if let Some(seed) = self.seeds.get(MOST_SEEDS) {
            errors.push(seed.origin.error(format!(
                "expected at most {MOST_SEEDS} seeds, found {}; a few are enough, since each lists all coordinators",
                self.seeds.len()
            )));
        }
    }

    fn report_tls(&self, errors: &mut Vec<ConfigError>) {
        let verifies = value_of(self.verify.as_ref(), true);
        if let Some(ca_file) = self.ca_file.as_ref().filter(|_| !verifies) {
            errors.push(
                ca_file.origin.error(
                    "expected no CA file together with verify = false, found one; remove one of the two",
                ),
            );
        }
        if value_of(self.tls.as_ref(), false) {
            return;
        }
        let options = [
            self.ca_file.as_ref().map(|key| &key.origin),
            self.server_name.as_ref().map(|key| &key.origin),
            self.verify.as_ref().map(|key| &key.origin),
        ];
        errors.extend(options.into_iter().flatten().map(|origin| {
            origin.error("expected this key only with TLS, found it without; add `tls = true`, or remove it")
        }));
    }

    fn interval(&self) -> Duration {
        value_of(self.interval.as_ref(), INTERVAL)
    }

    pub(super) fn assemble(self, service_port: u16) -> Option<Discovery> {
        let interval = self.interval();
        let tls = value_of(self.tls.as_ref(), false).then(|| CheckTls {
            ca_file: self.ca_file.map(|key| key.value),
            server_name: self.server_name.map(|key| key.value),
            verify: value_or(self.verify, true),
        });
        Some(Discovery {
            kind: value_or(self.kind, DiscoveryKind::Impala),
            origin: self.origin?,
            seeds: self.seeds.into_iter().map(|at| at.value).collect(),
            interval,
            timeout: value_or(self.timeout, TIMEOUT.min(interval)),
            port: value_or(self.port, service_port),
            source: self.source.map(|key| key.value),
            tls,
        })
    }
}

const EXAMPLE: &str = r#"write seeds = ["impala1.example.com", "impala2.example.com:25000"]"#;

fn value_of<T: Copy>(written: Option<&At<T>>, default: T) -> T {
    written.map_or(default, |at| at.value)
}

/// A host, with the port of its web pages or without.
fn seed(value: &DeValue<'_>) -> Result<Seed, String> {
    let text = value::string(value, "a host and a port")?;
    parse_seed(text).ok_or_else(|| {
        format!(
            "expected a host, with a port or without, found {}; write it like \"impala1.example.com\", \"192.0.2.21:25000\" or \
             \"[2001:db8::21]:25000\"",
            shown(text)
        )
    })
}

fn parse_seed(text: &str) -> Option<Seed> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, after)
        }
        None if text.parse::<Ipv6Addr>().is_ok() => (text, ""),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        None if port.is_empty() => WEB_PORT,
        _ => return None,
    };
    // Case makes no difference to DNS; addresses are compared in their canonical form.
    let host = match host.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) if value::is_host_name(host) => host.to_ascii_lowercase(),
        Err(_) => return None,
    };
    (port != 0).then_some(Seed { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn seeds_are_hosts_with_ports_or_without() {
        for (text, shown) in [
            ("impala1", "impala1:25000"),
            ("Impala1.Example.COM:25001", "impala1.example.com:25001"),
            ("192.0.2.21", "192.0.2.21:25000"),
            ("192.0.2.21:443", "192.0.2.21:443"),
            ("2001:DB8::21", "[2001:db8::21]:25000"),
            ("[2001:db8::21]", "[2001:db8::21]:25000"),
            ("[2001:db8::21]:1", "[2001:db8::21]:1"),
        ] {
            let seed = parse_seed(text).unwrap_or_else(|| panic!("{text} was refused"));
            assert_eq!(seed.to_string(), shown);
            assert_eq!(parse_seed(shown), Some(seed), "{text}");
        }
        for wrong in [
            "",
            ":25000",
            "impala1:",
            "impala1:0",
            "impala1:65536",
            "impala1:+1",
            "impala1:web",
            "http://impala1:25000",
            "impala1/backends",
            "192.0.2.256",
            "[192.0.2.1]:1",
            "[2001:db8::21",
            "[2001:db8::21]25000",
            "a b",
            "-a",
        ] {
            assert_eq!(parse_seed(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_seed_or_not(text in "[a-f0-9:.\\[\\]é]{0,20}|.{0,20}") {
            if let Some(seed) = parse_seed(&text) {
                prop_assert_eq!(parse_seed(&seed.to_string()), Some(seed));
            }
        }
    }
}
