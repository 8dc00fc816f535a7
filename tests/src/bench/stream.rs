//! What the state stream costs between the maps of two balancers, without the network between them: the time until a follower has all
//! records of its owner, and then the share of a core and the delay while connections come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use lb_common::headers::tcp::Flags;
use lb_common::layout::{FlowKey, FlowRecord};
use lb_common::testing::frame::CLIENT_MAC;
use lb_common::testing::tables::{NAT, NAT_TARGET, ONE};
use lb_common::testing::{Frame, HostTables};
use lb_ctl::adapters::datapath::PeerSource;
use lb_ctl::adapters::kernel_clock;
use lb_ctl::adapters::peer::LOOK;
use lb_ctl::core::sync::{Inbox, Item, Message, Outbox, WayToClient};

use super::cpu_time;
use super::report::{self, StreamFigures, rounded};
use super::statistics::Quartiles;
use crate::mirroring::{self, Follower, Owner};

/// How many translated connections the backend can tell apart, at most.
const PORTS: u32 = 60_000;

/// How the bench is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many records the owner has at first. Every other one is of a translated connection.
    pub records: u32,
    /// How many connections come a second.
    pub rate: u32,
    /// For how many seconds they come.
    pub seconds: u32,
    /// A line of JSON instead of a table.
    pub json: bool,
}

/// Measures, and prints what came out.
pub fn run(options: Options) -> Result<()> {
    let host = mirroring::tables();
    let room = options
        .records
        .saturating_add(options.rate.saturating_mul(options.seconds))
        .next_power_of_two();
    let mut owner = Owner::of(&host, room, &mirroring::told_services())?;
    let mut follower = Follower::of(&host, room)?;
    let mut inbox = Inbox::default();
    fill(&owner, &host, options.records)?;

    let begin = Instant::now();
    let told = owner.tell(&mut inbox, &mut follower)?;
    let all = begin.elapsed();
    let found = follower.kernel.flow_reader()?.established()?.len();
    ensure!(
        inbox.lost() == 0 && found == usize::try_from(options.records)?,
        "expected {} records with the follower, found {found}",
        options.records
    );

    let idle = steady(&mut owner, 0, options.seconds)?;
    let busy = steady(&mut owner, options.rate, options.seconds)?;
    let delays = Quartiles::of(busy.delays.iter().copied());
    let figures = StreamFigures {
        bench: "stream",
        records: options.records,
        all_s: rounded(all.as_secs_f64()),
        messages: told.messages,
        bytes: told.bytes,
        idle_cpu_share: idle.cpu_share,
        rate: options.rate,
        cpu_share: busy.cpu_share,
        delay_ms: rounded(delays.median),
        longest_delay_ms: rounded(busy.delays.iter().copied().fold(0.0, f64::max)),
    };
    if options.json {
        report::print_stream_json(&figures)
    } else {
        report::print_stream(&figures);
        Ok(())
    }
}

/// Writes so many records, every other one of a translated connection.
fn fill(owner: &Owner, host: &HostTables, records: u32) -> Result<()> {
    let mut tables = owner.kernel.mirrored_tables()?;
    let way = WayToClient {
        mac: CLIENT_MAC,
        interface: Some(0),
    };
    for number in 0..records {
        let (address, target, port) = match number % 2 {
            0 => (ONE, 2, 0),
            _ => (NAT, NAT_TARGET, u16::try_from(1024 + number / 2 % PORTS)?),
        };
        let [_, _, high, low] = (number / 2 / 1000).to_be_bytes();
        let key = FlowKey::new(
            std::net::IpAddr::from([10, 1, high, low]).into(),
            u16::try_from(1024 + number / 2 % 1000)?,
            host.service(address).id,
        );
        let record = FlowRecord {
            target,
            closing: 0,
            last_seen: kernel_clock::ticks(),
            port,
            reserved: [0; 3],
        };
        let has_room = tables.put_flow(&key, record, (port != 0).then_some(way))?;
        ensure!(has_room, "the owner's tables are too small for {records} records");
    }
    Ok(())
}

/// What telling of connections as they come has cost.
struct Steady {
    cpu_share: f64,
    /// From the packet that establishes a connection to the encoded message about it, in milliseconds.
    delays: Vec<f64>,
}

/// Has so many connections come for a while, and somebody tell of them on a thread of its own, as the daemon's does.
fn steady(owner: &mut Owner, rate: u32, seconds: u32) -> Result<Steady> {
    let begin = Instant::now();
    let count = rate.saturating_mul(seconds);
    // When each connection was established, by its number, in microseconds.
    let established: Arc<Vec<AtomicU32>> = Arc::new((0..count).map(|_| AtomicU32::new(0)).collect());
    let ends = Arc::new(AtomicBool::new(false));
    let source = owner.kernel.peer_source()?;
    let mut outbox = owner.outbox.clone();
    let teller = thread::spawn({
        let (established, ends) = (Arc::clone(&established), Arc::clone(&ends));
        move || tell(source, &mut outbox, begin, &established, &ends)
    });
    let wall = Instant::now();
    for number in 0..count {
        let due = Duration::from_secs(1) * number / rate;
        thread::sleep(due.saturating_sub(wall.elapsed()));
        let client = client(number)?;
        for (flags, sequence) in [(Flags::SYN, 100), (Flags::ACK, 101)] {
            let frame = Frame::new(client, ONE).flags(flags).sequence(sequence);
            owner.kernel.test_run(&frame.bytes())?;
        }
        let now = u32::try_from(begin.elapsed().as_micros())?;
        established[usize::try_from(number)?].store(now, Ordering::Release);
    }
    if rate == 0 {
        thread::sleep(Duration::from_secs(seconds.into()));
    }
    // What was established last is told too.
    thread::sleep(Duration::from_millis(100));
    ends.store(true, Ordering::Release);
    let wall = wall.elapsed();
    let (cpu, delays) = teller
        .join()
        .map_err(|_| anyhow!("the thread that tells has panicked"))??;
    ensure!(
        delays.len() == usize::try_from(count)?,
        "expected {count} connections to be told, found {}",
        delays.len()
    );
    Ok(Steady {
        cpu_share: cpu.as_secs_f64() / wall.as_secs_f64(),
        delays,
    })
}

/// The client of a connection that comes, by its number.
fn client(number: u32) -> Result<SocketAddr> {
    let [_, _, high, low] = (number / 10_000).to_be_bytes();
    let port = u16::try_from(10_000 + number % 10_000)?;
    Ok(SocketAddr::from(([10, 2, high, low], port)))
}

/// The number of a connection that is told.
fn number(item: &Item) -> Option<usize> {
    let Item::Flow {
        client: std::net::IpAddr::V4(client),
        port,
        ..
    } = item
    else {
        return None;
    };
    let [10, 2, high, low] = client.octets() else {
        return None;
    };
    Some(usize::from(u16::from_be_bytes([high, low])) * 10_000 + usize::from(*port) - 10_000)
}

/// Tells, until that ends. Returns the CPU time that it has taken, and all delays.
fn tell(
    mut source: PeerSource,
    outbox: &mut Outbox,
    begin: Instant,
    established: &[AtomicU32],
    ends: &AtomicBool,
) -> Result<(Duration, Vec<f64>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let mut delays = Vec::new();
    let time = cpu_time()?;
    runtime.block_on(async {
        while !ends.load(Ordering::Acquire) {
            tokio::time::sleep(LOOK).await;
            let items = outbox.next_batch(&mut source)?;
            let told: Vec<usize> = items.iter().filter_map(number).collect();
            Message::Batch { number: 0, items }.encode()?;
            let now = begin.elapsed().as_micros();
            for number in told {
                let then = established
                    .get(number)
                    .context("a connection that nobody has made")?;
                // 0 if it was told before it was even written down.
                let then = match then.load(Ordering::Acquire) {
                    0 => now,
                    then => then.into(),
                };
                let delay = u32::try_from(now.saturating_sub(then))?;
                delays.push(f64::from(delay) / 1e3);
            }
        }
        anyhow::Ok(())
    })?;
    Ok((cpu_time()?.saturating_sub(time), delays))
}
