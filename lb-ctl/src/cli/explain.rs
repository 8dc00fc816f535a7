//! `lb-ctl explain`.

use std::{
    net::{SocketAddr, SocketAddrV6},
    path::Path,
};

use super::{output::print, runtime};
use crate::{
    adapters::api::client,
    core::explain::{AffinityStatus, Explanation, Fate, Query, RecordStatus},
};

/// A client's address and port, as they are typed.
pub(super) fn client(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "expected an address and a port, such as 198.51.100.7:40000 or [2001:db8::7]:40000")?;
    // An IPv4 address in IPv6 form is one, and a scope says nothing to the balancer.
    Ok(
        match SocketAddr::new(address.ip().to_canonical(), address.port()) {
            SocketAddr::V6(address) => SocketAddrV6::new(*address.ip(), address.port(), 0, 0).into(),
            v4 @ SocketAddr::V4(_) => v4,
        },
    )
}

pub(super) fn explain(socket: &Path, client: SocketAddr, service: &str, json: bool) -> anyhow::Result<()> {
    let query = Query {
        client,
        service: service.to_owned(),
    };
    let explanation = runtime()?.block_on(client::explain(socket, &query))?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&explanation)?))
    } else {
        print(&render(&explanation))
    }
}

/// The explanation for people.
fn render(explanation: &Explanation) -> String {
    let Explanation {
        client,
        service,
        vip,
        port,
        forward,
        hash,
        slot,
        slots,
        tracked,
        settled,
        current,
        // The reason names them.
        candidates: _,
        affinity,
        records,
        packet,
        new_connection,
    } = explanation;
    let nobody = "nobody".to_owned();
    let (settled, current) = (
        settled.as_ref().unwrap_or(&nobody),
        current.as_ref().unwrap_or(&nobody),
    );
    let targets = if *tracked {
        format!("tracked: settled {settled}, current {current}")
    } else {
        format!("untracked: {current}")
    };
    let mut text = format!(
        "flow            {client} to {service} ({}, {forward})\nhash            {hash}\n\
         slot            {slot} of {slots}, {targets}\n",
        SocketAddr::new(*vip, *port)
    );
    if let Some(affinity) = affinity {
        text.push_str(&render_affinity(affinity, *tracked));
    }
    for record in records {
        text.push_str(&render_record(record));
    }
    if packet == new_connection {
        text.push_str(&render_fate("every packet", packet));
    } else {
        text.push_str(&render_fate("next packet", packet));
        text.push_str(&render_fate("new connection", new_connection));
    }
    text
}

fn render_affinity(affinity: &AffinityStatus, tracked: bool) -> String {
    let AffinityStatus {
        timeout_seconds,
        backend,
        idle_seconds,
        grace_period,
    } = affinity;
    let noted = match (backend, idle_seconds) {
        (Some(backend), Some(idle)) => format!("last seen on {backend}, {idle} s ago"),
        _ if tracked => "nothing is noted of this client".to_owned(),
        _ => "by the slot: nothing is noted while it is untracked".to_owned(),
    };
    let grace = if *grace_period { ", grace period" } else { "" };
    format!("affinity        {noted} (for {timeout_seconds} s{grace})\n")
}

fn render_record(record: &RecordStatus) -> String {
    let RecordStatus {
        state,
        backend,
        idle_seconds,
        nat_port,
    } = record;
    let port = nat_port.map_or_else(String::new, |port| format!(", port {port}"));
    format!(
        "record          {} on {backend}, last packet {idle_seconds} s ago{port}\n",
        state.name()
    )
}

fn render_fate(packet: &str, fate: &Fate) -> String {
    let Fate {
        action,
        backend,
        next_hop,
        egress,
        counter,
        reason,
    } = fate;
    let what = match (backend, next_hop, egress, counter) {
        (Some(backend), Some(next_hop), Some(egress), _) => {
            format!("to {backend}, next hop {next_hop} on {egress}")
        }
        (_, _, _, Some(counter)) if action == "reset" => format!("answered by a reset, counted as {counter}"),
        (_, _, _, Some(counter)) => format!("dropped, counted as {counter}"),
        _ => format!("{action}ed to the kernel"),
    };
    format!("{packet:<15} {what}\n                {reason}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_typed_as_sockets_are() {
        let parsed = |text| client(text).map(|client| client.to_string());
        assert_eq!(parsed("198.51.100.7:40000").as_deref(), Ok("198.51.100.7:40000"));
        assert_eq!(parsed("[2001:db8::7]:80").as_deref(), Ok("[2001:db8::7]:80"));
        assert_eq!(
            parsed("[::ffff:198.51.100.7]:80").as_deref(),
            Ok("198.51.100.7:80")
        );
        assert_eq!(parsed("[fe80::1%2]:80").as_deref(), Ok("[fe80::1]:80"));
        for text in ["198.51.100.7", "2001:db8::7:80", "host:80", ""] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
