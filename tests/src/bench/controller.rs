//! What the controller costs when it has as many services and backends as tables of the default sizes take: the time to start and
//! to reload, its memory, and the share of a core that it spends on checks while nothing happens.
//!
//! All services have the same backends, and these are addresses of one host: what is measured is the controller, and the neighbour
//! table of this machine's kernel, which all network namespaces share, need not be larger than usual.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_ctl::core::status::Status;

use super::report::{self, ControllerFigures, rounded};
use super::statistics::Quartiles;
use crate::balancing::{Balancer, Configuration, HS2_PORT};
use crate::hosts::lab::{Host, Lab};
use crate::wait_until;

const SERVICES: u16 = 64;
const BACKENDS_OF_EACH: u8 = 16;
/// Before that of the first service.
const FIRST_PORT: u16 = 21_100;
/// How often each backend of each service is checked.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_mins(1);

/// How the bench is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How often the configuration is reloaded.
    pub reloads: u32,
    /// For how many seconds the checks are watched.
    pub seconds: u32,
    /// A line of JSON instead of a table.
    pub json: bool,
}

/// Measures, and prints what came out.
pub fn run(options: Options) -> Result<()> {
    let lab = Lab::builder().balancers(1).backends(1).clients(0).start()?;
    let (host, backend) = (&lab.balancers()[0], &lab.backends()[0]);
    let addresses = add_addresses(backend)?;
    let connections = serve(backend)?;
    let begin = Instant::now();
    let mut balancer = Balancer::start(&lab, host, configuration(&lab, host, &addresses, 1))?;
    let ready = begin.elapsed();
    let all = usize::from(SERVICES) * usize::from(BACKENDS_OF_EACH);
    wait_until("all backends are up", PATIENCE, || {
        balancer.status().is_ok_and(|status| up(&status) == all)
    })?;
    let all_up = begin.elapsed();

    let mut reloads = Vec::new();
    for reload in 0..options.reloads {
        balancer.reconfigure(configuration(&lab, host, &addresses, 2 + reload % 2))?;
        let begin = Instant::now();
        let output = balancer.lb_ctl(&["reload"])?;
        reloads.push(begin.elapsed().as_secs_f64() * 1e3);
        ensure!(output.code == Some(0), "lb-ctl reload failed: {output:?}");
    }

    let pid = balancer.daemon()?.id();
    let (checks, time, begin) = (
        connections.load(Ordering::Relaxed),
        cpu_time(pid)?,
        Instant::now(),
    );
    std::thread::sleep(Duration::from_secs(options.seconds.into()));
    let (checks, time, wall) = (
        connections.load(Ordering::Relaxed) - checks,
        cpu_time(pid)?.saturating_sub(time),
        begin.elapsed().as_secs_f64(),
    );
    let checks_per_second = f64::from(u32::try_from(checks)?) / wall;
    let expected = f64::from(u32::try_from(all)?) / INTERVAL.as_secs_f64();
    // With jitter, and in a window that begins anywhere.
    ensure!(
        (0.8 * expected..1.2 * expected).contains(&checks_per_second),
        "expected some {expected:.0} checks a second, found {checks_per_second:.0}"
    );
    let reloads = Quartiles::of(reloads.into_iter());
    let [memory, memory_peak] = memory(pid)?;
    let figures = ControllerFigures {
        bench: "controller",
        backends: all,
        ready_ms: rounded(ready.as_secs_f64() * 1e3),
        all_up_ms: rounded(all_up.as_secs_f64() * 1e3),
        reload_ms: rounded(reloads.median),
        reload_spread_ms: rounded(reloads.spread()),
        memory,
        memory_peak,
        checks_per_second: rounded(checks_per_second),
        cpu_share: time.as_secs_f64() / wall,
    };
    if options.json {
        report::print_controller_json(&figures)
    } else {
        report::print_controller(&figures);
        Ok(())
    }
}

/// Gives the host more addresses, so that it stands for all backends of a service.
fn add_addresses(host: &Host) -> Result<Vec<Ipv4Addr>> {
    let first = u32::from(host.v4());
    let addresses: Vec<_> = (0..u32::from(BACKENDS_OF_EACH))
        .map(|number| Ipv4Addr::from(first + number))
        .collect();
    for address in &addresses[1..] {
        host.run(&["ip", "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
    }
    Ok(addresses)
}

/// Accepts connections on all addresses of the host, and counts them.
fn serve(host: &Host) -> Result<Arc<AtomicU64>> {
    let listener = host
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, HS2_PORT)))?
        .context("cannot listen on the backend")?;
    let counted = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&counted);
    // Until this process ends.
    std::thread::spawn(move || {
        while listener.accept().is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(counted)
}

/// The services, each with a port of its own; the first backend of each has this weight, the others 1.
fn configuration(lab: &Lab, host: &Host, addresses: &[Ipv4Addr], weight: u32) -> Configuration {
    let mut text = String::new();
    let vip = lab.vips()[0].v4;
    for service in 1..=SERVICES {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[[service]]\nname = \"service{service}\"\nvip = \"{vip}\"\nport = {}\n\
             [service.check]\ntype = \"tcp\"\nport = {HS2_PORT}\ninterval = \"{INTERVAL:?}\"\n",
            FIRST_PORT + service
        );
        for (number, address) in addresses.iter().enumerate() {
            let weight = if number == 0 { weight } else { 1 };
            let _ = write!(
                text,
                "[[service.backend]]\nname = \"backend{number}\"\naddress = \"{address}\"\nweight = {weight}\n"
            );
        }
    }
    Configuration::of(lab, host).followed_by(&text)
}

/// How many backends of all services are up.
fn up(status: &Status) -> usize {
    let backends = status.services.iter().flat_map(|service| &service.backends);
    backends.filter(|backend| backend.health == "up").count()
}

/// The CPU time that a process has taken, user and system.
fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // After the name, which may contain anything, the state is the first field; the two times are twelve and thirteen further.
    let (_, fields) = text
        .rsplit_once(')')
        .with_context(|| format!("{path} is not understood"))?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<_, _>>()?;
    Ok(Duration::from_secs_f64(
        f64::from(u32::try_from(ticks)?) / f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?),
    ))
}

/// The resident memory of a process, in bytes: now, and at most so far.
fn memory(pid: u32) -> Result<[u64; 2]> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kilobytes
            .with_context(|| format!("expected {name} in {path}"))?
            .parse::<u64>()?
            * 1024)
    };
    Ok([field("VmRSS:")?, field("VmHWM:")?])
}
