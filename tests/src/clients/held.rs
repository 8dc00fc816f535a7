//! Connections from ports of a test's choice, and sessions that are held on them while something happens to the balancer.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Socket, Type};

use super::hs2::{Session, coordinator_name};
use crate::balancing::PATIENCE;
use crate::hosts::lab::Host;

/// A session, and the coordinator on which it has begun.
pub type Held<'a> = (Session<'a>, String);

/// A connection from a port of the caller's choice: what slot it gets does not change from run to run. In whichever network this thread is.
pub fn connect_from(client: SocketAddr, service: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(service), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&client.into())?;
    socket
        .connect_timeout(&service.into(), PATIENCE)
        .with_context(|| format!("connection from {client} failed"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// Connections from a host, one from each of these ports.
pub fn connect_from_ports(client: &Host, service: SocketAddr, ports: Range<u16>) -> Result<Vec<TcpStream>> {
    let address = if service.is_ipv4() {
        IpAddr::V4(client.v4())
    } else {
        IpAddr::V6(client.v6())
    };
    client.enter(|| {
        ports
            .map(|port| connect_from(SocketAddr::new(address, port), service))
            .collect()
    })?
}

/// Opens a session on each of these connections.
pub fn hold_sessions(streams: &[TcpStream]) -> Result<Vec<Held<'_>>> {
    let open = |stream| {
        let mut session = Session::open(stream)?;
        let home = session.coordinator()?;
        Ok((session, home))
    };
    streams.iter().map(open).collect()
}

/// The coordinators on which sessions on these connections have begun.
pub fn homes(streams: &[TcpStream]) -> Result<Vec<String>> {
    let held = hold_sessions(streams)?;
    Ok(held.into_iter().map(|(_, home)| home).collect())
}

/// Asks each session where it lives, which must be where it has begun.
pub fn all_live(sessions: &mut [Held<'_>], when: &str) -> Result<()> {
    for (number, (session, home)) in sessions.iter_mut().enumerate() {
        let found = session
            .coordinator()
            .with_context(|| format!("session {number} {when}"))?;
        ensure!(
            found == *home,
            "session {number} {when}: expected it on {home}, found it on {found}"
        );
    }
    Ok(())
}

/// How many of the connections to a coordinator are reset once they are used, which all of them must be; the others must live where they
/// have begun.
pub fn count_resets(streams: &[TcpStream], homes: &[String], coordinator: &str) -> Result<usize> {
    let mut resets = 0;
    for (number, (mut stream, home)) in streams.iter().zip(homes).enumerate() {
        if home == coordinator {
            let answer = stream.write_all(&[0; 4]).and_then(|()| stream.read(&mut [0; 1]));
            ensure!(
                matches!(&answer, Err(error) if error.kind() == ErrorKind::ConnectionReset),
                "connection {number} to {home}: expected a reset, found {answer:?}"
            );
            resets += 1;
        } else {
            let found = coordinator_name(stream).with_context(|| format!("connection {number} to {home}"))?;
            ensure!(
                found == *home,
                "connection {number}: expected it on {home}, found it on {found}"
            );
        }
    }
    Ok(resets)
}
