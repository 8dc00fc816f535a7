//! The lab: what it is made of, how it begins and how it ends.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, bail};
use rustix::process::geteuid;

use crate::hosts::namespace::Namespace;
use crate::hosts::network;
use crate::hosts::pass_program;
use crate::hosts::plan::{Identity, Mac, Role, Vip};
use crate::hosts::process::tail;
use crate::lifetime::down::sweep;
use crate::lifetime::reaper::Reaper;
use crate::lifetime::registry::{Registry, RunLock};
use crate::lifetime::run::Run;
use crate::lifetime::teardown::tear_down;

/// The name of the switch's namespace.
const SWITCH: &str = "switch";

/// A host of the lab: a namespace with an interface `eth0` and addresses.
///
/// It is used as its [`Namespace`], which has the means to run things on it.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: Namespace,
    identity: Identity,
}

impl Host {
    /// What the host is for.
    pub fn role(&self) -> Role {
        self.identity.role
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.identity.v4
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.identity.v6
    }

    /// The MAC address of its `eth0`.
    pub fn mac(&self) -> Mac {
        self.identity.mac
    }
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

/// How many of what a new lab has.
#[derive(Clone, Debug)]
pub struct Builder {
    balancers: u8,
    backends: u8,
    clients: u8,
    vips: u8,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            balancers: 1,
            backends: 1,
            clients: 1,
            vips: 1,
        }
    }
}

impl Builder {
    /// The number of balancer hosts, 1 unless told otherwise. The lab starts no balancer on them.
    #[must_use]
    pub fn balancers(mut self, number: u8) -> Self {
        self.balancers = number;
        self
    }

    /// The number of backends, 1 unless told otherwise.
    #[must_use]
    pub fn backends(mut self, number: u8) -> Self {
        self.backends = number;
        self
    }

    /// The number of clients, 1 unless told otherwise.
    #[must_use]
    pub fn clients(mut self, number: u8) -> Self {
        self.clients = number;
        self
    }

    /// The number of VIPs, 1 unless told otherwise. Every backend holds all of them on its loopback interface, as
    /// direct server return needs it. Putting them on a balancer is the balancer's own affair.
    #[must_use]
    pub fn vips(mut self, number: u8) -> Self {
        self.vips = number;
        self
    }

    /// Brings the lab up. When this returns, every host reaches every other.
    pub fn start(&self) -> Result<Lab> {
        if !geteuid().is_root() {
            bail!("the lab makes network namespaces and loads BPF programs: run it as root");
        }
        let vips: Vec<_> = (1..=self.vips).map_while(Vip::new).collect();
        if vips.len() < usize::from(self.vips) {
            bail!("a lab has at most {} VIPs, not {}", Vip::CAPACITY, self.vips);
        }
        let balancers = identities(Role::Balancer, self.balancers)?;
        let backends = identities(Role::Backend, self.backends)?;
        let clients = identities(Role::Client, self.clients)?;

        let life = Life::begin()?;
        let mut names = vec![SWITCH];
        names.extend(
            [&balancers, &backends, &clients]
                .into_iter()
                .flatten()
                .map(|host| host.name.as_str()),
        );
        let mut namespaces = Namespace::create_all(&life.run, &names)?.into_iter();
        let switch = namespaces.next().context("a lab has a switch")?;
        let mut hosts = |identities: Vec<Identity>| {
            let hosts = identities.into_iter().zip(namespaces.by_ref());
            hosts
                .map(|(identity, namespace)| Host { namespace, identity })
                .collect::<Vec<_>>()
        };
        let (balancers, backends, clients) = (hosts(balancers), hosts(backends), hosts(clients));
        let lab = Lab {
            switch,
            balancers,
            backends,
            clients,
            vips,
            life,
        };
        network::build(&lab.switch, &lab.hosts().collect::<Vec<_>>(), &lab.vips)?;
        Ok(lab)
    }
}

fn identities(role: Role, number: u8) -> Result<Vec<Identity>> {
    let identities: Vec<_> = (1..=number)
        .map_while(|number| Identity::new(role, number))
        .collect();
    if identities.len() < usize::from(number) {
        bail!(
            "a lab has at most {} {}s, not {number}",
            role.capacity(),
            role.name()
        );
    }
    Ok(identities)
}

/// A network of namespaces: balancers, backends and clients on one switch.
///
/// It disappears when it is dropped, with everything that runs in it. If this process is killed before that, a reaper
/// process does the same. Labs of several tests or processes do not see each other.
#[derive(Debug)]
pub struct Lab {
    switch: Namespace,
    balancers: Vec<Host>,
    backends: Vec<Host>,
    clients: Vec<Host>,
    vips: Vec<Vip>,
    life: Life,
}

impl Lab {
    /// A lab with one of everything, to be changed and [started](Builder::start).
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The name of this run of the lab, unique on this machine. `lab down` knows it.
    pub fn id(&self) -> &str {
        self.life.run.id()
    }

    /// A directory for files of this run, such as configurations and sockets. It goes with the lab, and its path is
    /// short enough for a unix socket.
    pub fn directory(&self) -> &Path {
        self.life.run.directory()
    }

    /// The namespace with the bridge. Each host's link ends here in an interface that has the host's name.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// The hosts for balancers, in the order of their numbers.
    pub fn balancers(&self) -> &[Host] {
        &self.balancers
    }

    /// The backends, in the order of their numbers.
    pub fn backends(&self) -> &[Host] {
        &self.backends
    }

    /// The clients, in the order of their numbers.
    pub fn clients(&self) -> &[Host] {
        &self.clients
    }

    /// The virtual addresses.
    pub fn vips(&self) -> &[Vip] {
        &self.vips
    }

    /// All hosts: balancers, backends, clients.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.balancers.iter().chain(&self.backends).chain(&self.clients)
    }

    /// The host with this name, such as `backend1`.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts().find(|host| host.name() == name).with_context(|| {
            let names: Vec<_> = self.hosts().map(|host| host.name()).collect();
            format!("there is no host {name} in this lab, only {}", names.join(", "))
        })
    }

    /// Lets the switch take frames that an XDP program on a host transmits, as it does from balancers anyway.
    pub fn accept_xdp_from(&self, host: &Host) -> Result<()> {
        self.switch.enter(|| pass_program::attach(&[host.name()]))?
    }

    /// Has a file, or a directory with everything below it, removed when the lab is taken down: what processes of the
    /// lab leave behind outside of it, such as pins in bpffs. To be called before it is made; it need not exist then.
    pub fn on_teardown_remove(&self, path: impl AsRef<Path>) -> Result<()> {
        self.life.run.record_path(path.as_ref())
    }

    /// Leaves the lab and its processes running when this value is dropped and when this process ends.
    /// `lab down` takes it down.
    pub fn keep(&mut self) -> Result<()> {
        self.life.keep()
    }
}

impl fmt::Display for Lab {
    /// A table of hosts and addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for host in self.hosts() {
            writeln!(
                f,
                "{:<10} {:<12} {:<10} netns {}",
                host.name(),
                host.v4(),
                host.v6(),
                host.full_name()
            )?;
        }
        for (number, vip) in (1..).zip(&self.vips) {
            writeln!(f, "{:<10} {:<12} {}", format!("VIP {number}"), vip.v4, vip.v6)?;
        }
        writeln!(
            f,
            "{:<10} {:<12} {:<10} netns {}",
            SWITCH,
            "",
            "",
            self.switch.full_name()
        )
    }
}

/// What makes a run end: as long as this value lives and is not kept, so does the run.
#[derive(Debug)]
struct Life {
    run: Arc<Run>,
    /// Absent once the run is kept.
    guards: Option<(RunLock, Reaper)>,
}

impl Life {
    fn begin() -> Result<Self> {
        let registry = Registry::lock()?;
        sweep(&registry);
        let lock = registry.create_run()?;
        match Run::begin(&lock).and_then(|run| {
            let reaper = Reaper::start(&lock, &run)?;
            Ok((run, reaper))
        }) {
            Ok((run, reaper)) => Ok(Self {
                run: Arc::new(run),
                guards: Some((lock, reaper)),
            }),
            Err(error) => {
                // There is nothing but the run's directory yet. If that resists, the next start finds it.
                let _ = tear_down(&lock);
                Err(error)
            }
        }
    }

    fn keep(&mut self) -> Result<()> {
        // In this order: if this process dies in between, the reaper finds the lab kept.
        self.run.keep()?;
        if let Some((_lock, reaper)) = self.guards.take() {
            reaper.dismiss();
        }
        Ok(())
    }

    /// Shows the end of what each process has printed: after a failure, the files will not be there to be read.
    fn show_logs(&self) -> Result<()> {
        let logs = fs::read_dir(self.run.logs()).and_then(Iterator::collect::<std::io::Result<Vec<_>>>)?;
        for log in logs {
            let text = fs::read(log.path())?;
            eprintln!(
                "end of {}:\n{}",
                log.file_name().display(),
                tail(&String::from_utf8_lossy(&text))
            );
        }
        Ok(())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let Some((lock, reaper)) = self.guards.take() else {
            return;
        };
        if thread::panicking()
            && let Err(error) = self.show_logs()
        {
            eprintln!("cannot show the output of the lab's processes: {error:#}");
        }
        let id = self.run.id();
        if let Err(error) = tear_down(&lock) {
            eprintln!("lab {id} is not completely taken down: {error:#}. `lab down {id}` tries again.");
        }
        // Only now: until here the reaper would go on if this process were killed.
        reaper.dismiss();
        drop(lock);
        if let Err(error) = Registry::tidy() {
            eprintln!("{error:#}");
        }
    }
}
