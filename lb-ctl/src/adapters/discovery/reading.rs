//! One reading of one page.

use std::net::{IpAddr, SocketAddr};

use futures::{StreamExt, stream};
use tokio::net::lookup_host;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::Order;
use crate::adapters::check::connection::{Connector, Deadline, Trouble};
use crate::adapters::check::{WebPort, web};
use crate::core::discovery::{Coordinator, PAGE_LIMIT, parse};
use crate::core::health::Verdict;

const PATH: &str = "/backends?json";

/// How many addresses of a seed's name are tried.
const ADDRESSES: usize = 4;

/// How many names are resolved at once. Each takes a thread until the resolver gives up, which may be long after we have.
const LOOKUPS: usize = 4;

/// Reads the page of a seed: its coordinators, each with the addresses at which the service can use it.
pub async fn read(order: &Order) -> Result<Vec<Coordinator>, String> {
    let deadline = Instant::now() + order.timeout;
    let mut coordinators = page(order, deadline).await?;
    for coordinator in &mut coordinators {
        coordinator.keep_usable(order.vip, order.any_family);
    }
    stream::iter(coordinators.iter_mut().filter(|it| it.addresses.is_empty()))
        .for_each_concurrent(LOOKUPS, async |coordinator| {
            // Without an answer it has no address, and keeps the one that it had.
            if let Ok(addresses) = resolve(&coordinator.host, deadline).await {
                coordinator.resolved(addresses);
                coordinator.keep_usable(order.vip, order.any_family);
            }
        })
        .await;
    Ok(coordinators)
}

async fn page(order: &Order, deadline: Instant) -> Result<Vec<Coordinator>, String> {
    let addresses = resolve(&order.seed.host, deadline).await?;
    let mut result = Err(format!("no address is known of {}", order.seed.host));
    let tried = addresses.len().min(ADDRESSES);
    for (address, left) in addresses.into_iter().zip((1..=tried).rev()) {
        let now = Instant::now();
        // Whoever does not answer leaves time for the others.
        let share = deadline.saturating_duration_since(now) / u32::try_from(left).unwrap_or(1);
        let connector = Connector {
            address,
            source: order.source,
            // The time that was configured is told, so that a seed that never answers says the same each time.
            deadline: Deadline::until(now + share, order.timeout),
        };
        result = page_at(&connector, order).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

async fn page_at(connector: &Connector, order: &Order) -> Result<Vec<Coordinator>, String> {
    let web = WebPort {
        port: order.seed.port,
        tls: order.tls.clone(),
    };
    // One byte more than a page may have tells one that is too long.
    let answer = web::get(connector, &web, PATH, PAGE_LIMIT + 1)
        .await
        .map_err(Trouble::into_words)?;
    let finding = answer.finding(PATH);
    if finding.verdict != Verdict::Healthy {
        return Err(finding.detail);
    }
    // Elsewhere: a long page takes some time, and the controller has one thread.
    let parsed = spawn_blocking(move || parse(&answer.body));
    match parsed.await {
        Ok(page) => page.map_err(|error| error.to_string()),
        Err(error) => Err(format!("the page could not be parsed: {error}")),
    }
}

/// The addresses of a host, as the system resolves its name.
async fn resolve(host: &str, deadline: Instant) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    match timeout_at(deadline, lookup_host((host, 0))).await {
        Ok(Ok(addresses)) => Ok(addresses.map(|address: SocketAddr| address.ip()).collect()),
        Ok(Err(error)) => Err(format!("the name {host} cannot be resolved: {error}")),
        Err(_) => Err(format!("the name {host} was not resolved in time")),
    }
}
