//! The page `/backends?json` of an Impala coordinator.
//!
//! Whoever answers may be broken, hostile, or another program altogether: any bytes are read, and what is not such a page is an
//! error, since a member must never be lost because of a page that was misread.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;

use crate::core::config::{is_name, unusable};

/// The most bytes of a page that are read. Each daemon of the cluster, executors included, takes about half a thousand.
pub const PAGE_LIMIT: usize = 4 << 20;

/// The most coordinators of a cluster. Real ones have some tens; what is done with them takes time, which others must not be able to
/// waste.
pub const MOST_COORDINATORS: usize = 1024;

/// The longest host name in DNS.
const HOST_LENGTH: usize = 253;

/// How much of a host name that is too long for a backend's is kept; the rest gives way to a hash of the whole.
const NAME_BEGIN: usize = 46;

/// How much of a host that is none is repeated in a message.
const SHOWN_HOST: usize = 60;

/// How much of what is wrong with a page is repeated: it quotes the page, which may be long.
const SHOWN_ERROR: usize = 200;

/// A coordinator, as a page lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coordinator {
    /// What a backend that stands for it is called: its host, as far as that can be a backend's name. Every balancer calls it so.
    pub name: String,
    /// The host under which it is registered.
    pub host: String,
    /// The addresses that the page itself has for it.
    pub addresses: Vec<IpAddr>,
    /// It is shutting down.
    pub is_quiescing: bool,
    /// When its process started, in its own words, which sort by time; empty if the page does not say so.
    pub started: String,
}

/// Why something is no page of coordinators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// It is too long to be one.
    #[error("expected a page of at most {PAGE_LIMIT} bytes, found a longer one")]
    TooLong,
    /// It is not JSON, or of another shape.
    #[error("expected the page /backends?json of a coordinator, found something else: {0}")]
    Shape(String),
    /// It lists a coordinator without a usable host.
    #[error("expected the host and port of each coordinator, found {0:?}")]
    Host(String),
    /// It lists more than any cluster has.
    #[error("expected at most {MOST_COORDINATORS} coordinators, found more")]
    TooMany,
    /// It lists none, not even the one that has answered.
    #[error(
        "expected at least one coordinator, found none among {0} backends: its coordinator is not in the cluster yet"
    )]
    Empty(usize),
}

#[derive(Deserialize)]
struct Page {
    backends: Vec<Backend>,
}

#[derive(Deserialize)]
struct Backend {
    address: String,
    #[serde(default)]
    krpc_address: String,
    #[serde(default)]
    is_coordinator: bool,
    #[serde(default)]
    is_quiescing: bool,
    #[serde(default)]
    process_start_time: String,
}

/// Reads a page: its coordinators by name, each once, at least one.
pub fn parse(page: &[u8]) -> Result<Vec<Coordinator>, PageError> {
    if page.len() > PAGE_LIMIT {
        return Err(PageError::TooLong);
    }
    let page: Page = serde_json::from_slice(page)
        .map_err(|error| PageError::Shape(shortened(&error.to_string(), SHOWN_ERROR)))?;
    let daemons = page.backends.len();
    let mut coordinators: BTreeMap<String, Coordinator> = BTreeMap::new();
    for backend in page.backends.into_iter().filter(|it| it.is_coordinator) {
        let found = coordinator(backend)?;
        let is_full = coordinators.len() == MOST_COORDINATORS;
        match coordinators.get_mut(&found.name) {
            None if is_full => return Err(PageError::TooMany),
            None => drop(coordinators.insert(found.name.clone(), found)),
            Some(known) => known.join(found),
        }
    }
    if coordinators.is_empty() {
        return Err(PageError::Empty(daemons));
    }
    Ok(coordinators.into_values().collect())
}

impl Coordinator {
    /// Takes in what its host resolves to.
    pub fn resolved(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        // Servers of names give them in another order each time.
        self.addresses
            .extend(addresses.into_iter().collect::<BTreeSet<_>>());
    }

    /// Leaves the addresses at which a service can use it: of the VIP's family, or with `any_family` of either, then those of the
    /// VIP's first.
    pub fn keep_usable(&mut self, vip: IpAddr, any_family: bool) {
        let is_like_vip = |address: &IpAddr| address.is_ipv4() == vip.is_ipv4();
        self.addresses
            .retain(|address| unusable(*address).is_none() && (any_family || is_like_vip(address)));
        self.addresses.sort_by_key(|address| !is_like_vip(address));
    }

    /// Takes in another coordinator on the same host: clients can be sent to the host only.
    fn join(&mut self, other: Self) {
        self.is_quiescing &= other.is_quiescing;
        for address in other.addresses {
            if !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
        self.started = std::mem::take(&mut self.started).max(other.started);
    }
}

fn coordinator(backend: Backend) -> Result<Coordinator, PageError> {
    let Some(host) = host(&backend.address) else {
        return Err(PageError::Host(shortened(&backend.address, SHOWN_HOST)));
    };
    let Some(name) = name(host) else {
        return Err(PageError::Host(shortened(host, SHOWN_HOST)));
    };
    let mut addresses = Vec::new();
    // Impala's daemons resolve their own host, and tell the others what they have found.
    for text in [self::host(&backend.krpc_address), Some(host)]
        .into_iter()
        .flatten()
    {
        if let Ok(address) = text.parse::<IpAddr>()
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    Ok(Coordinator {
        name,
        host: host.to_owned(),
        addresses,
        is_quiescing: backend.is_quiescing,
        // It is kept and compared: a page that has a novel there is not believed.
        started: Some(backend.process_start_time)
            .filter(|text| text.len() <= 64)
            .unwrap_or_default(),
    })
}

/// The host of "host:port". Impala writes IPv6 addresses there with brackets or without.
fn host(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    ((1..=HOST_LENGTH).contains(&host.len()) && host.bytes().all(is_sound)).then_some(host)
}

/// What a backend on this host is called.
fn name(host: &str) -> Option<String> {
    // Only IPv6 addresses have colons.
    let name = host.to_ascii_lowercase().replace(':', "-");
    if is_name(&name) {
        return Some(name);
    }
    let begin = name.get(..NAME_BEGIN)?;
    let name = format!("{begin}-{:016x}", lb_common::hash::name(0, host));
    is_name(&name).then_some(name)
}

fn shortened(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn backend(address: &str, krpc_address: &str) -> Value {
        json!({
            "address": address, "krpc_address": krpc_address, "is_coordinator": true, "is_executor": true,
            "is_quiescing": false, "is_active": true, "process_start_time": "2026-01-02 03:04:05.000006",
            "admission_slots": 16, "version": "impalad version 5.0.0",
        })
    }

    fn page(backends: &[Value]) -> Vec<u8> {
        json!({"backends": backends, "num_active_backends": 1})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn coordinators_are_read_and_executors_are_not() {
        let mut executor = backend("worker1:27000", "192.0.2.31:27000");
        executor["is_coordinator"] = false.into();
        let mut leaving = backend("Impala2.example.com:27000", "192.0.2.22:27000");
        leaving["is_quiescing"] = true.into();
        let mut blacklisted = backend("impala1.example.com:27000", "impala1.example.com:27000");
        blacklisted["is_blacklisted"] = true.into();
        let coordinators = parse(&page(&[executor, leaving, blacklisted])).unwrap();
        let started = "2026-01-02 03:04:05.000006".to_owned();
        assert_eq!(
            coordinators,
            [
                Coordinator {
                    name: "impala1.example.com".into(),
                    host: "impala1.example.com".into(),
                    addresses: vec![],
                    is_quiescing: false,
                    started: started.clone(),
                },
                Coordinator {
                    name: "impala2.example.com".into(),
                    host: "Impala2.example.com".into(),
                    addresses: vec![[192, 0, 2, 22].into()],
                    is_quiescing: true,
                    started,
                },
            ]
        );
    }

    #[test]
    fn hosts_become_names() {
        let long = format!("{}.example.com", "a".repeat(60));
        let named = |address: &str| {
            let found = parse(&page(&[backend(address, "")])).unwrap().remove(0);
            (found.name, found.addresses)
        };
        assert_eq!(
            named("192.0.2.21:27000"),
            ("192.0.2.21".into(), vec![[192, 0, 2, 21].into()])
        );
        let v6: IpAddr = "2001:db8::21".parse().unwrap();
        for text in ["[2001:db8::21]:27000", "2001:db8::21:27000"] {
            assert_eq!(named(text), ("2001-db8--21".into(), vec![v6]));
        }
        let (name, _) = named(&format!("{long}:27000"));
        assert!(is_name(&name) && name.starts_with("aaa"), "{name}");
        let (other, _) = named(&format!("{long}.au:27000"));
        assert_ne!(name, other, "the ends of long names count");
    }

    #[test]
    fn two_coordinators_on_a_host_are_one_backend() {
        let mut leaving = backend("impala1:27000", "192.0.2.21:27000");
        leaving["is_quiescing"] = true.into();
        let other = backend("impala1:27001", "192.0.2.21:27001");
        let found = parse(&page(&[leaving, other])).unwrap();
        assert_eq!(found.len(), 1);
        assert!(!found[0].is_quiescing, "the other one serves");
        assert_eq!(found[0].addresses, [IpAddr::from([192, 0, 2, 21])]);
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for text in [
            "",
            "<html></html>",
            "[]",
            "{}",
            "null",
            r#"{"backends": {}}"#,
            r#"{"backends": [1]}"#,
            r#"{"backends": [{"is_coordinator": true}]}"#,
            r#"{"backends": [{"address": "a:1", "is_coordinator": "yes"}]}"#,
            r#"{"backends": [{"address": "a:1", "is_coordinator": true}"#,
        ] {
            assert!(
                matches!(parse(text.as_bytes()), Err(PageError::Shape(_))),
                "{text}"
            );
        }
        let long = format!(r#"{{"backends": "{}"}}"#, "x".repeat(100_000));
        let error = parse(long.as_bytes()).unwrap_err().to_string();
        assert!(error.len() < 400, "it goes into logs: {error}");
        assert_eq!(parse(&page(&[])), Err(PageError::Empty(0)));
        for address in [
            "",
            "impala1",
            "impala1:",
            "impala1:x",
            ":1",
            "-:1",
            "im pala:1",
            "::1:27000",
            "é:1",
        ] {
            let found = parse(&page(&[backend(address, "")]));
            assert!(matches!(found, Err(PageError::Host(_))), "{address}: {found:?}");
        }
        assert_eq!(parse(&vec![b' '; PAGE_LIMIT + 1]), Err(PageError::TooLong));
    }

    #[test]
    fn more_coordinators_than_any_cluster_has_are_not_believed() {
        let listed = |count: usize| {
            let backend = |number| backend(&format!("impala{number}:27000"), "");
            parse(&page(&(0..count).map(backend).collect::<Vec<_>>()))
        };
        assert_eq!(
            listed(MOST_COORDINATORS).map(|found| found.len()),
            Ok(MOST_COORDINATORS)
        );
        assert_eq!(listed(MOST_COORDINATORS + 1), Err(PageError::TooMany));
    }

    #[test]
    fn addresses_that_the_service_cannot_use_are_left_out() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let usable = |vip: &str, any_family| {
            let mut found = parse(&page(&[backend("impala1:27000", "127.0.0.1:27000")]))
                .unwrap()
                .remove(0);
            found.resolved(["2001:db8::2", "192.0.2.3", "fe80::1", "2001:db8::1", "192.0.2.3"].map(address));
            found.keep_usable(address(vip), any_family);
            found.addresses
        };
        assert_eq!(usable("192.0.2.10", false), [address("192.0.2.3")]);
        assert_eq!(
            usable("2001:db8::10", false),
            ["2001:db8::1", "2001:db8::2"].map(address)
        );
        let both = ["192.0.2.3", "2001:db8::1", "2001:db8::2"].map(address);
        assert_eq!(usable("192.0.2.10", true), both);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // No page of coordinators comes about by chance.
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn a_page_cut_short_is_no_page(end in 0_usize..10_000) {
            let whole = page(&[backend("impala1:27000", "192.0.2.21:27000"), backend("impala2:27000", "")]);
            prop_assert!(parse(&whole[..end % whole.len()]).is_err());
        }

        #[test]
        fn whatever_stands_in_it(
            address in ".{0,300}|[a-z:.0-9\\[\\]-]{0,80}:[0-9]{1,5}",
            value in "null|true|-1|1e99|\"x\"|\\[1\\]|\\{\\}",
            key in "is_coordinator|is_quiescing|process_start_time|krpc_address|version|anything",
        ) {
            let mut listed = backend(&address, &address);
            listed[key] = serde_json::from_str(&value).unwrap();
            if let Ok(found) = parse(&page(&[listed])) {
                for coordinator in found {
                    prop_assert!(is_name(&coordinator.name), "{}", coordinator.name);
                }
            }
        }
    }
}
