//! The network that a lab consists of.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lab::{Host, Lab, wait_until};
use serde_json::Value;

type Server = thread::JoinHandle<io::Result<()>>;

const PORT: u16 = 21050;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Starts a server on the host that tells every one of `clients` connections its `answer`.
fn serve(host: &Host, address: IpAddr, answer: &'static str, clients: usize) -> Result<Server> {
    let listener = host.enter(|| TcpListener::bind((address, PORT)))??;
    Ok(thread::spawn(move || {
        let mut connections = listener.incoming().take(clients);
        connections.try_for_each(|connection| connection?.write_all(answer.as_bytes()))
    }))
}

/// What a server tells the host.
fn ask(host: &Host, address: IpAddr) -> Result<String> {
    let ask = || -> io::Result<String> {
        let mut answer = String::new();
        TcpStream::connect_timeout(&SocketAddr::new(address, PORT), TIMEOUT)?.read_to_string(&mut answer)?;
        Ok(answer)
    };
    host.enter(ask)?
        .with_context(|| format!("{} asks {address}", host.name()))
}

#[test]
fn clients_reach_backends_in_both_families() -> Result<()> {
    let lab = Lab::builder().backends(2).clients(2).start()?;
    for backend in lab.backends() {
        for address in [IpAddr::from(backend.v4()), IpAddr::from(backend.v6())] {
            let server = serve(backend, address, "hello", lab.clients().len())?;
            for client in lab.clients() {
                assert_eq!(ask(client, address)?, "hello");
            }
            server.join().unwrap()?;
        }
    }
    Ok(())
}

#[test]
fn labs_do_not_see_each_other() -> Result<()> {
    let labs = [Lab::builder().start()?, Lab::builder().start()?];
    let address = IpAddr::from(labs[0].backends()[0].v4());
    assert_ne!(labs[0].id(), labs[1].id());
    let servers = [
        serve(&labs[0].backends()[0], address, "first", 2)?,
        serve(&labs[1].backends()[0], address, "second", 2)?,
    ];
    for _ in 0..2 {
        assert_eq!(ask(&labs[0].clients()[0], address)?, "first");
        assert_eq!(ask(&labs[1].clients()[0], address)?, "second");
    }
    for server in servers {
        server.join().unwrap()?;
    }
    Ok(())
}

#[test]
fn a_backend_serves_a_vip_but_does_not_claim_it() -> Result<()> {
    let lab = Lab::builder().vips(2).start()?;
    let (client, backend) = (&lab.clients()[0], &lab.backends()[0]);
    for vip in lab.vips() {
        let [v4, v6] = [IpAddr::from(vip.v4), IpAddr::from(vip.v6)];
        // So that the unanswered question for the MAC address fails after a fraction of a second.
        for family in ["ipv4", "ipv6"] {
            client
                .enter(|| fs::write(format!("/proc/sys/net/{family}/neigh/eth0/retrans_time_ms"), "50"))??;
        }
        for address in [v4, v6] {
            let server = serve(backend, address, "served", 1)?;
            let error = ask(client, address).unwrap_err();
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            assert_eq!(kind, Some(io::ErrorKind::HostUnreachable), "{error:#}");
            let mac = backend.mac().to_string();
            client.run(&[
                "ip",
                "neigh",
                "replace",
                &address.to_string(),
                "lladdr",
                &mac,
                "dev",
                "eth0",
            ])?;
            assert_eq!(ask(client, address)?, "served");
            server.join().unwrap()?;
        }
    }
    Ok(())
}

#[test]
fn the_switch_has_a_native_xdp_program_on_the_ports_of_balancers_only() -> Result<()> {
    /// `XDP_ATTACHED_DRV` of `linux/if_link.h`.
    const NATIVE: u64 = 1;
    let lab = Lab::builder().balancers(2).start()?;
    let mode = |port: &str| -> Result<Option<u64>> {
        let links = lab.switch().run(&["ip", "-json", "link", "show", "dev", port])?;
        let links: Value = serde_json::from_str(&links)?;
        assert_eq!(links[0]["ifname"], port);
        Ok(links[0]["xdp"]["mode"].as_u64())
    };
    assert_eq!(mode("balancer1")?, Some(NATIVE));
    assert_eq!(mode("balancer2")?, Some(NATIVE));
    assert_eq!(mode("backend1")?, None);
    assert_eq!(mode("client1")?, None);
    Ok(())
}

#[test]
fn the_root_namespace_never_sees_an_interface_of_the_lab() -> Result<()> {
    let lab = Lab::builder().start()?;
    for name in fs::read_dir("/sys/class/net")?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<Vec<_>>>()?
    {
        assert!(lab.host(&name.to_string_lossy()).is_err(), "{}", name.display());
    }
    Ok(())
}

#[test]
fn a_lab_that_the_plan_has_no_addresses_for_is_refused() {
    let error = Lab::builder().backends(100).start().unwrap_err();
    assert_eq!(error.to_string(), "a lab has at most 99 backends, not 100");
    let error = Lab::builder().vips(41).start().unwrap_err();
    assert_eq!(error.to_string(), "a lab has at most 40 VIPs, not 41");
}

#[test]
fn a_large_lab_starts_too() -> Result<()> {
    let lab = Lab::builder()
        .balancers(2)
        .backends(20)
        .clients(5)
        .vips(10)
        .start()?;
    let last = &lab.backends()[19];
    let server = serve(last, last.v4().into(), "here", 1)?;
    wait_until("an answer", TIMEOUT, || ask(&lab.clients()[4], last.v4().into()))?;
    server.join().unwrap()?;
    Ok(())
}
