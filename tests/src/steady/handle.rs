//! Servers and clients as processes of a lab.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use super::client::Options;
use super::report::{Break, Event, Progress, Short, Summary};
use crate::balancing::PATIENCE;
use crate::hosts::lab::{Host, Lab};
use crate::hosts::process::Process;
use crate::programs;
use crate::wait::wait_until;

/// The program that is both server and client.
const PROGRAM: &str = "steady";

/// The client has better things to do than to answer all the time.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(50);

/// How many breaks an error message shows.
const SHOWN_BREAKS: usize = 10;

/// A server on a backend, which identifies itself by the name of its host.
#[derive(Debug)]
pub struct Server {
    /// The name of its host.
    pub name: String,
    /// The process, to be killed and looked into.
    pub process: Process,
}

/// Starts a server on every backend, for both families and all addresses of the host, and returns when all listen.
pub fn start_servers(lab: &Lab, port: u16) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for host in lab.backends() {
        let mut command = host.command(programs::find(PROGRAM)?)?;
        command.args(["serve", "--name", host.name()]);
        // The kernel takes IPv4 connections on the unspecified IPv6 address too.
        command.args(["--listen", &format!("[::]:{port}")]);
        servers.push(Server {
            name: host.name().to_owned(),
            process: host.spawn(PROGRAM, &mut command)?,
        });
    }
    for server in &mut servers {
        server.process.wait_for_line("ready", PATIENCE)?;
    }
    Ok(servers)
}

/// Steady connections from a client, which are checked all the time.
#[derive(Debug)]
pub struct Steady {
    process: Process,
    /// What has been read of its output.
    events: Vec<Event>,
    /// How many bytes that was.
    read: usize,
    /// How often its progress has been asked for.
    requests: u64,
}

impl Steady {
    /// What is usual: this many connections from a host to a service, five exchanges a second on each, no short ones.
    pub fn options(client: &Host, service: SocketAddr, connections: u16) -> Options {
        let from = match service {
            SocketAddr::V4(_) => IpAddr::V4(client.v4()),
            SocketAddr::V6(_) => IpAddr::V6(client.v6()),
        };
        Options {
            service,
            from,
            first_port: 10_000,
            connections,
            pause: Duration::from_millis(200),
            patience: Duration::from_secs(10),
            short_rate: 0,
        }
    }

    /// Starts the client, and returns when every connection has had its first reply, or is broken.
    pub fn start(client: &Host, options: Options) -> Result<Self> {
        let mut command = client.command(programs::find(PROGRAM)?)?;
        command.arg("hold").args([
            format!("--service={}", options.service),
            format!("--from={}", options.from),
            format!("--first-port={}", options.first_port),
            format!("--connections={}", options.connections),
            format!("--pause={}", humantime::format_duration(options.pause)),
            format!("--patience={}", humantime::format_duration(options.patience)),
            format!("--short-rate={}", options.short_rate),
        ]);
        let mut process = client.spawn(PROGRAM, &mut command)?;
        process.wait_for_line("\"event\":\"ready\"", PATIENCE)?;
        Ok(Self {
            process,
            events: Vec::new(),
            read: 0,
            requests: 0,
        })
    }

    /// What became of the connections until now.
    pub fn progress(&mut self) -> Result<Progress> {
        self.process.signal(Signal::USR1)?;
        self.requests += 1;
        let request = self.requests;
        wait_until("the client's progress", PATIENCE, || {
            let events = self.events()?.iter().rev();
            let mut answers = events.filter_map(|event| match event {
                Event::Progress(progress) if progress.request == request => Some(progress.clone()),
                _ => None,
            });
            answers.next().context("no answer yet")
        })
    }

    /// Waits until every connection that is not broken has been through an exchange that began after this call, and says
    /// how things are then. A connection that hangs is broken when its patience is over, so this ends.
    pub fn round(&mut self) -> Result<Progress> {
        // The one after that may have begun before.
        let goal = self.progress()?.most + 2;
        wait_until("an exchange on every connection", PATIENCE, || {
            thread::sleep(BETWEEN_QUESTIONS);
            let progress = self.progress()?;
            ensure!(
                progress.fewest >= goal || progress.connections == 0,
                "{progress:?}, and the goal is {goal}"
            );
            Ok(progress)
        })
    }

    /// Like [`Steady::round`], and an error that shows the breaks if there has been any.
    pub fn expect_unbroken(&mut self) -> Result<Progress> {
        let progress = self.round()?;
        let breaks = self.breaks()?;
        ensure!(
            breaks.is_empty(),
            "expected all connections to live, {} are broken:\n{}",
            breaks.len(),
            breaks
                .iter()
                .take(SHOWN_BREAKS)
                .map(|broken| format!("    {broken:?}"))
                .collect::<Vec<_>>()
                .join("\n")
        );
        Ok(progress)
    }

    /// The breaks until now.
    pub fn breaks(&mut self) -> Result<Vec<Break>> {
        let breaks = self.events()?.iter().filter_map(|event| match event {
            Event::Break(broken) => Some(broken.clone()),
            _ => None,
        });
        Ok(breaks.collect())
    }

    /// The short connections that have ended until now.
    pub fn short_connections(&mut self) -> Result<Vec<Short>> {
        let short = self.events()?.iter().filter_map(|event| match event {
            Event::Short(short) => Some(short.clone()),
            _ => None,
        });
        Ok(short.collect())
    }

    /// Ends the client and returns its summary.
    pub fn finish(mut self) -> Result<Summary> {
        let status = self.process.terminate(PATIENCE)?;
        ensure!(status.success(), "{} ended with {status}", self.process);
        match self.events()?.last() {
            Some(Event::Summary(summary)) => Ok(summary.clone()),
            other => bail!("the last event should be the summary, it is {other:?}"),
        }
    }

    /// Everything that the client has reported. Only what is new is read: a long run reports much.
    fn events(&mut self) -> Result<&[Event]> {
        let log = self.process.log();
        let mut new = Vec::new();
        File::open(log)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(self.read as u64))?;
                file.read_to_end(&mut new)
            })
            .with_context(|| format!("cannot read {}", log.display()))?;
        // A line that is being written is for the next time.
        let complete = new
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        for line in String::from_utf8_lossy(&new[..complete]).lines() {
            let event = Event::parse(line).with_context(|| format!("the client has printed {line:?}"))?;
            self.events.push(event);
        }
        self.read += complete;
        Ok(&self.events)
    }
}
