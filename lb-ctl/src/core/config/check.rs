//! `[service.check]`: how the health of a service's backends is found out.
//!
//! Each type of check has keys of its own. A key of another type is refused: whoever writes it expects something of it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::assemble::value_or;
use super::choice::CheckKind;
use super::duration::ConfigDuration;
use super::error::{ConfigError, Origin};
use super::pace::{self, FALL, INTERVAL, INTERVALS, RISE, TIMEOUT};
use super::reader::{At, TableReader};
use super::value;
use crate::core::health::Pace;
use crate::core::health::probe::Authentication;

const KIND: CheckKind = CheckKind::None;
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const PATH: &str = "/";
/// The web pages of an impalad.
const WEB_PORT: u16 = 25000;

/// How the health of a service's backends is found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The kind of check.
    pub kind: CheckKind,
    /// How often, and how many checks it takes to believe a change.
    pub pace: Pace,
    /// How long one check may take in all.
    pub timeout: Duration,
    /// Our address that checks come from; `None` leaves that to the routes.
    pub source: Option<IpAddr>,
    /// The port to check; `None` for the backend's own.
    pub port: Option<u16>,
    /// The port of the web pages, where they are not the port to check.
    pub web_port: u16,
    /// The page to ask for.
    pub path: String,
    /// What the client port wants first.
    pub authentication: Authentication,
    /// Whether the client port wants TLS.
    pub client_tls: bool,
    /// Whether the web pages want TLS.
    pub web_tls: bool,
    /// Whom to trust; `None` if there is no TLS.
    pub tls: Option<CheckTls>,
    /// The metric that tells which one of a pair is active; `None` for Impala's own.
    pub metric: Option<String>,
}

/// Whom a check trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckTls {
    /// PEM certificates; `None` for those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// The name that the certificate must bear; `None` for the backend's address.
    pub server_name: Option<String>,
    /// Whether the certificate is looked at.
    pub verify: bool,
}

/// The table as written.
#[derive(Debug)]
pub(super) struct CheckKeys {
    /// Where the table begins.
    origin: Origin,
    /// A type is written, though it may have been refused.
    has_kind: bool,
    kind: Option<At<CheckKind>>,
    interval: Option<At<Duration>>,
    fast_interval: Option<At<Duration>>,
    timeout: Option<At<Duration>>,
    rise: Option<At<u32>>,
    fall: Option<At<u32>>,
    source: Option<At<IpAddr>>,
    port: Option<At<u16>>,
    web_port: Option<At<u16>>,
    path: Option<At<String>>,
    authentication: Option<At<Authentication>>,
    tls: Option<At<bool>>,
    web_tls: Option<At<bool>>,
    ca_file: Option<At<PathBuf>>,
    server_name: Option<At<String>>,
    verify: Option<At<bool>>,
    metric: Option<At<String>>,
}

impl CheckKeys {
    pub(super) fn read(table: &mut TableReader<'_, '_>) -> Self {
        Self {
            origin: table.origin().clone(),
            has_kind: table.mentions("type"),
            kind: table.optional("type", value::choice),
            interval: pace::interval(table),
            fast_interval: table.optional("fast_interval", |value| {
                value::duration(
                    value,
                    INTERVALS,
                    "leave the key out to get a quarter of the interval",
                )
                .map(Duration::from)
            }),
            timeout: pace::timeout(table),
            rise: pace::rise(table),
            fall: pace::fall(table),
            source: table.optional("source", value::address),
            port: table.optional("port", |value| {
                value::integer(
                    value,
                    1..=u16::MAX,
                    "leave the key out to check the backend's own port",
                )
            }),
            web_port: table.optional("web_port", |value| {
                value::integer(
                    value,
                    1..=u16::MAX,
                    "write the port of the web pages, 25000 for an impalad",
                )
            }),
            path: table.optional("path", value::web_path),
            authentication: table.optional("auth", value::choice),
            tls: table.optional("tls", value::boolean),
            web_tls: table.optional("web_tls", value::boolean),
            ca_file: table.optional("ca_file", value::file),
            server_name: table.optional("server_name", value::host_name),
            verify: table.optional("verify", value::boolean),
            metric: table.optional("metric", value::metric),
        }
    }

    /// The type of the check; `None` if one is written but was refused.
    pub(super) fn known_kind(&self) -> Option<CheckKind> {
        (!self.has_kind || self.kind.is_some()).then(|| self.kind())
    }

    pub(super) fn kind(&self) -> CheckKind {
        self.kind.as_ref().map_or(KIND, |kind| kind.value)
    }

    fn interval(&self) -> Duration {
        self.interval.as_ref().map_or(INTERVAL, |interval| interval.value)
    }

    /// Whether there is TLS anywhere in this check.
    fn has_tls(&self) -> bool {
        let is_set = |key: &Option<At<bool>>| key.as_ref().is_some_and(|key| key.value);
        self.kind() == CheckKind::Https || is_set(&self.tls) || is_set(&self.web_tls)
    }

    /// Reports keys that contradict each other.
    pub(super) fn report_conflicts(&self, errors: &mut Vec<ConfigError>) {
        // If it is not known what the type should be, nor is it known which keys belong to it.
        if self.known_kind().is_none() {
            return;
        }
        self.report_keys_of_other_types(errors);
        let interval = self.interval();
        if let Some(fast) = &self.fast_interval
            && fast.value > interval
        {
            errors.push(fast.origin.error(format!(
                "expected at most the interval, {}, found {}; lower it or leave it out",
                ConfigDuration::from(interval),
                ConfigDuration::from(fast.value)
            )));
        }
        if let Some(ca_file) = &self.ca_file
            && self.verify.as_ref().is_some_and(|verify| !verify.value)
        {
            errors.push(
                ca_file.origin.error(
                    "expected no CA file together with verify = false, found one; remove one of the two",
                ),
            );
        }
        if self.kind() == CheckKind::ActiveStatus && self.web_port.is_none() {
            errors.push(ConfigError::at(
                self.origin.line,
                format!("{}.web_port", self.origin.key),
                "expected this key with type = \"active-status\", found none; add `web_port = 25020` for catalogd or \
                 `web_port = 25010` for statestored",
            ));
        }
    }

    fn report_keys_of_other_types(&self, errors: &mut Vec<ConfigError>) {
        use CheckKind::{ActiveStatus, Hs2, Http, Https, Impala, Tcp};
        const ALL: &[CheckKind] = &[Tcp, Http, Https, Hs2, Impala, ActiveStatus];
        fn origin<T>(key: Option<&At<T>>) -> Option<&Origin> {
            key.map(|key| &key.origin)
        }
        let of_tls: &[CheckKind] = &[Https, Hs2, Impala, ActiveStatus];
        let keys: [(Option<&Origin>, &[CheckKind]); 16] = [
            (origin(self.interval.as_ref()), ALL),
            (origin(self.fast_interval.as_ref()), ALL),
            (origin(self.timeout.as_ref()), ALL),
            (origin(self.rise.as_ref()), ALL),
            (origin(self.fall.as_ref()), ALL),
            (origin(self.source.as_ref()), ALL),
            (origin(self.port.as_ref()), &[Tcp, Http, Https, Hs2, Impala]),
            (origin(self.web_port.as_ref()), &[Impala, ActiveStatus]),
            (origin(self.path.as_ref()), &[Http, Https]),
            (origin(self.authentication.as_ref()), &[Hs2, Impala]),
            (origin(self.tls.as_ref()), &[Hs2, Impala]),
            (origin(self.web_tls.as_ref()), &[Impala, ActiveStatus]),
            (origin(self.ca_file.as_ref()), of_tls),
            (origin(self.server_name.as_ref()), of_tls),
            (origin(self.verify.as_ref()), of_tls),
            (origin(self.metric.as_ref()), &[ActiveStatus]),
        ];
        let kind = self.kind();
        for (origin, kinds) in keys {
            let Some(origin) = origin.filter(|_| !kinds.contains(&kind)) else {
                continue;
            };
            let words: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
            errors.push(origin.error(format!(
                "expected a key of a check with type = \"{kind}\", found one of the type {}; remove it or change the type",
                words.join(", ")
            )));
        }
        if of_tls.contains(&kind) && !self.has_tls() {
            let options = [
                origin(self.ca_file.as_ref()),
                origin(self.server_name.as_ref()),
                origin(self.verify.as_ref()),
            ];
            let switch = match kind {
                Hs2 => "`tls = true`",
                ActiveStatus => "`web_tls = true`",
                _ => "`tls = true` for the client port or `web_tls = true` for the web pages",
            };
            errors.extend(options.into_iter().flatten().map(|origin| {
                origin.error(format!(
                    "expected this key only with TLS, found it without; add {switch}, or remove it"
                ))
            }));
        }
    }

    pub(super) fn assemble(self) -> Check {
        let interval = self.interval();
        let tls = self.has_tls().then(|| CheckTls {
            ca_file: self.ca_file.map(|key| key.value),
            server_name: self.server_name.map(|key| key.value),
            verify: value_or(self.verify, true),
        });
        Check {
            kind: value_or(self.kind, KIND),
            pace: Pace {
                interval,
                fast_interval: value_or(self.fast_interval, (interval / 4).max(SHORTEST_INTERVAL)),
                rise: value_or(self.rise, RISE),
                fall: value_or(self.fall, FALL),
            },
            timeout: value_or(self.timeout, TIMEOUT),
            source: self.source.map(|key| key.value),
            port: self.port.map(|key| key.value),
            web_port: value_or(self.web_port, WEB_PORT),
            path: value_or(self.path, PATH.to_owned()),
            authentication: value_or(self.authentication, Authentication::None),
            client_tls: value_or(self.tls, false),
            web_tls: value_or(self.web_tls, false),
            tls,
            metric: self.metric.map(|key| key.value),
        }
    }
}
