//! The keys of `[peer]`.

use super::super::Peer;
use super::{MINIMAL, accept, refuse};

/// What is wrong with a table that begins in line 10, without the file's name.
fn refused(keys: &str) -> String {
    refuse(&format!("{MINIMAL}[peer]\n{keys}")).replace("lb.toml:", "")
}

fn accepted(keys: &str) -> Option<Peer> {
    accept(&format!("{MINIMAL}[peer]\n{keys}")).peer
}

#[test]
fn without_the_table_there_is_no_peer() {
    assert_eq!(accept(MINIMAL).peer, None);
}

#[test]
fn one_of_the_two_goes_to_the_other_or_both_do() {
    let key = "key_file = \"/etc/peer.key\"\n";
    let both = accepted(&format!(
        "{key}listen = \"192.0.2.1:7000\"\nconnect = \"[2001:db8::2]:7001\""
    ));
    let both = both.expect("a peer");
    assert_eq!(both.listen, "192.0.2.1:7000".parse().ok());
    assert_eq!(both.connect, "[2001:db8::2]:7001".parse().ok());
    assert_eq!(both.key_file.to_str(), Some("/etc/peer.key"));
    assert_eq!(both.key_file_origin.line, 11);
    let one = accepted(&format!("{key}connect = \"192.0.2.2:7000\"")).expect("a peer");
    assert_eq!((one.listen, one.connect), (None, "192.0.2.2:7000".parse().ok()));
    let neither = refused(key);
    assert!(
        neither.starts_with("10: peer: expected `listen`, `connect` or both, found neither"),
        "{neither}"
    );
}

#[test]
fn mistakes_are_named() {
    for (keys, message) in [
        (
            "listen = \"192.0.2.1:7000\"",
            "10: peer.key_file: expected this key, found none; add `key_file = \"/etc/lb-ctl/peer.key\"`",
        ),
        (
            "listen = \"192.0.2.1\"\nkey_file = \"/k\"",
            "11: peer.listen: expected an IP address and a port, found \"192.0.2.1\"; write \"192.0.2.1:7000\" or \"[2001:db8::1]:7000\"",
        ),
        (
            "connect = \"lb2:7000\"\nkey_file = \"k\"",
            "11: peer.connect: expected an IP address and a port, found \"lb2:7000\"; write \"192.0.2.1:7000\" or \"[2001:db8::1]:7000\"\n\
             12: peer.key_file: expected the absolute path of a file, found \"k\"; begin it with '/'",
        ),
        (
            "listen = \"192.0.2.1:7000\"\nconnect = \"192.0.2.1:7000\"\nkey_file = \"/k\"",
            "12: peer.connect: expected the other balancer's address, found 192.0.2.1:7000, on which this one listens; write the other's",
        ),
        (
            "connect = \"192.0.2.1:7000\"\nkey_file = \"/k\"\nkey = \"secret\"",
            "13: peer.key: expected a key of [peer], found \"key\"; remove it or use one of listen, connect, key_file",
        ),
    ] {
        assert_eq!(refused(keys), message);
    }
}
