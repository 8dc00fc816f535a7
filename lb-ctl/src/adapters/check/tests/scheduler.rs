//! Many backends, their troubles, and reloads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpListener;
use tokio::sync::mpsc::Receiver;

use super::super::WebPort;
use super::super::{Assignment, ClientPort, Report, Scheduler};
use super::servers::{http, nobody, pages, read_some, serve, stopping_after};
use super::*;
use crate::core::health::probe::Authentication;
use crate::core::health::{Event, Health, Pace, Standing, Start};

const PACE: Pace = Pace {
    interval: Duration::from_millis(20),
    fast_interval: Duration::from_millis(10),
    rise: 2,
    fall: 2,
};

fn assignment(probe: Probe) -> Assignment {
    Assignment {
        target: Target {
            address: LOOPBACK,
            source: None,
            timeout: PLENTY,
            probe,
        },
        pace: PACE,
        start: Start::Cold,
    }
}

fn tcp(port: u16) -> Assignment {
    assignment(Probe::Tcp { port })
}

fn page(port: u16, path: &str) -> Assignment {
    assignment(Probe::Web {
        web: WebPort { port, tls: None },
        path: path.to_owned(),
    })
}

async fn next<K>(reports: &mut Receiver<Report<K>>) -> Report<K> {
    tokio::time::timeout(PLENTY, reports.recv())
        .await
        .expect("a report comes")
        .expect("the scheduler runs")
}

/// The next report with events, and these.
async fn next_events<K>(reports: &mut Receiver<Report<K>>) -> (Report<K>, Vec<Event>) {
    loop {
        let mut report = next(reports).await;
        if !report.events.is_empty() {
            let events = std::mem::take(&mut report.events);
            return (report, events);
        }
    }
}

fn change(events: &[Event]) -> (Health, Health) {
    match events {
        [Event::Changed { from, to, .. }] => (*from, *to),
        other => panic!("expected one change, found {other:?}"),
    }
}

#[tokio::test]
async fn a_backend_comes_up_goes_down_and_comes_back() {
    let well = Arc::new(AtomicBool::new(true));
    let is_well = Arc::clone(&well);
    let port = serve(move |mut stream| {
        let well = is_well.load(Ordering::SeqCst);
        async move {
            use tokio::io::AsyncWriteExt as _;
            read_some(&mut stream).await?;
            let status = if well {
                "200 OK"
            } else {
                "500 Internal Server Error"
            };
            stream.write_all(http(status, "").as_bytes()).await
        }
    })
    .await;
    let (mut scheduler, mut reports) = Scheduler::new(1, 16);
    scheduler.assign([("impala1", page(port, "/"))]);

    let (report, events) = next_events(&mut reports).await;
    assert_eq!((report.key, report.address), ("impala1", LOOPBACK));
    assert_eq!(change(&events), (Health::Checking, Health::Up));
    assert_eq!(
        (report.health, report.standing, report.since_up),
        (Health::Up, Standing::Healthy, None)
    );

    well.store(false, Ordering::SeqCst);
    let (report, events) = next_events(&mut reports).await;
    assert_eq!(change(&events), (Health::Up, Health::Down));
    assert_eq!(report.standing, Standing::Failing);

    well.store(true, Ordering::SeqCst);
    let (report, events) = next_events(&mut reports).await;
    assert_eq!(change(&events), (Health::Down, Health::Up));
    assert_eq!(report.since_up, Some(Duration::ZERO), "it starts slowly");
}

#[tokio::test]
async fn one_backend_does_not_wait_for_another() {
    let well = pages(vec![("/", http("200 OK", ""))]).await;
    let silent = stopping_after("").await;
    let (mut scheduler, mut reports) = Scheduler::new(1, 16);
    let hung = Assignment {
        target: Target {
            timeout: Duration::from_hours(1),
            ..page(silent, "/").target
        },
        ..page(silent, "/")
    };
    let hung = (0..100).map(|number| (format!("hung{number}"), hung.clone()));
    scheduler.assign(hung.chain([("well".to_owned(), page(well, "/"))]));
    for _ in 0..5 {
        assert_eq!(next(&mut reports).await.key, "well");
    }
}

#[tokio::test]
async fn a_reload_keeps_the_health_of_what_stays() {
    let port = pages(vec![("/", http("200 OK", "")), ("/other", http("200 OK", ""))]).await;
    let (mut scheduler, mut reports) = Scheduler::new(1, 16);
    scheduler.assign([("stays", page(port, "/")), ("goes", page(port, "/"))]);
    for _ in 0..2 {
        assert_eq!(
            change(&next_events(&mut reports).await.1),
            (Health::Checking, Health::Up)
        );
    }

    // Another way of checking, another pace, and an address that is new.
    let changed = Assignment {
        pace: Pace {
            interval: Duration::from_millis(30),
            ..PACE
        },
        start: Start::Added,
        ..page(port, "/other")
    };
    let mut moved = changed.clone();
    moved.target.address = IpAddr::from([127, 0, 0, 2]);
    scheduler.assign([("stays", changed.clone()), ("joins", changed.clone())]);
    let mut joined = false;
    while !joined {
        let report = next(&mut reports).await;
        match report.key {
            "stays" => assert_eq!((report.health, report.events), (Health::Up, vec![])),
            "joins" => joined = report.health == Health::Up,
            // A report that was on its way.
            other => assert_eq!(other, "goes"),
        }
    }

    // An address that changes makes another backend of it. Nobody listens there.
    scheduler.assign([("stays", moved)]);
    loop {
        let report = next(&mut reports).await;
        if report.address != LOOPBACK {
            assert_eq!((report.key, report.health), ("stays", Health::Checking));
            break;
        }
    }
}

#[tokio::test]
async fn what_is_gone_is_not_checked_any_more() {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut scheduler, mut reports) = Scheduler::new(1, 1);
    scheduler.assign([("goes", tcp(port)), ("stays", tcp(port))]);
    while next(&mut reports).await.key != "goes" {}
    scheduler.assign([("stays", tcp(port))]);
    // It may have left the one report for which the channel has room.
    next(&mut reports).await;
    for _ in 0..10 {
        assert_eq!(next(&mut reports).await.key, "stays");
    }
    drop(scheduler);
    while let Some(report) = tokio::time::timeout(PLENTY, reports.recv())
        .await
        .expect("the tasks end")
    {
        assert_eq!(report.key, "stays");
    }
}

#[tokio::test]
async fn our_own_trouble_is_reported_and_changes_no_health() {
    let port = stopping_after("").await;
    let (mut scheduler, mut reports) = Scheduler::new(1, 16);
    let mut foreign = tcp(port);
    foreign.target.source = Some(IpAddr::from([192, 0, 2, 77]));
    foreign.start = Start::Warm(Health::Up);
    scheduler.assign([("impala1", foreign)]);
    for _ in 0..5 {
        let report = next(&mut reports).await;
        let address = SocketAddr::new(LOOPBACK, port);
        assert_eq!(report.result.unwrap_err().address, address);
        assert_eq!((report.health, report.events), (Health::Up, vec![]));
    }
}

#[tokio::test]
async fn reports_wait_for_their_reader() {
    let dead = nobody().await;
    let (mut scheduler, mut reports) = Scheduler::new(1, 1);
    let client = ClientPort {
        port: dead,
        tls: None,
        authentication: Authentication::None,
    };
    let names: Vec<String> = (0..50).map(|number| format!("impala{number}")).collect();
    let assignment = assignment(Probe::HiveServer2(client));
    scheduler.assign(names.iter().map(|name| (name.clone(), assignment.clone())));
    // With room for one, every backend goes down all the same, and each says so once.
    let mut down = Vec::new();
    while down.len() < names.len() {
        let (report, events) = next_events(&mut reports).await;
        assert_eq!(change(&events), (Health::Checking, Health::Down));
        down.push(report.key);
    }
    down.sort();
    let mut expected = names;
    expected.sort();
    assert_eq!(down, expected);
}
