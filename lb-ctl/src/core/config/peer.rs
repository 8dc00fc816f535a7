//! `[peer]`: the connection to the other balancer, over which each can take over the other's connections.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::document::Document;
use super::error::{ConfigError, Origin};
use super::reader::{At, TableReader};
use super::value;

/// How the two balancers find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where the other one may come to us.
    pub listen: Option<SocketAddr>,
    /// Where we go to the other one.
    pub connect: Option<SocketAddr>,
    /// The file with the key that both have.
    pub key_file: PathBuf,
    /// Where the file's name is written.
    pub key_file_origin: Origin,
}

/// The table as written.
#[derive(Debug)]
pub(super) struct PeerKeys {
    origin: Origin,
    /// The table is there.
    is_written: bool,
    listen: Option<At<SocketAddr>>,
    connect: Option<At<SocketAddr>>,
    key_file: Option<At<PathBuf>>,
    /// `listen` or `connect` is written, whether or not it was refused.
    names_one: bool,
}

impl PeerKeys {
    pub(super) fn read(table: &mut TableReader<'_, '_>, is_written: bool) -> Self {
        let names_one = table.mentions("listen") || table.mentions("connect");
        let listen = table.optional("listen", value::peer);
        let connect = table.optional("connect", value::peer);
        let key_file = if is_written {
            table.required("key_file", r#""/etc/lb-ctl/peer.key""#, value::file)
        } else {
            table.optional("key_file", value::file)
        };
        Self {
            origin: table.origin().clone(),
            is_written,
            listen,
            connect,
            key_file,
            names_one,
        }
    }

    pub(super) fn assemble(self) -> Option<Peer> {
        let key_file = self.key_file?;
        Some(Peer {
            listen: self.listen.map(|at| at.value),
            connect: self.connect.map(|at| at.value),
            key_file: key_file.value,
            key_file_origin: key_file.origin,
        })
    }
}

pub(super) fn report_conflicts(document: &Document, errors: &mut Vec<ConfigError>) {
    let peer = &document.peer;
    if peer.is_written && !peer.names_one {
        errors.push(peer.origin.error(
            "expected `listen`, `connect` or both, found neither: one of the two balancers must go to the other; add \
             `listen = \"192.0.2.1:7000\"`, our address, and `connect = \"192.0.2.2:7000\"`, the other's",
        ));
    }
    let (Some(listen), Some(connect)) = (&peer.listen, &peer.connect) else {
        return;
    };
    if listen.value == connect.value {
        errors.push(connect.origin.error(format!(
            "expected the other balancer's address, found {}, on which this one listens; write the other's",
            connect.value
        )));
    }
}
