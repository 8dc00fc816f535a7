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
use crate::hosts::plan::{Identity, Interface, Mac, Network, Role, Vip};
use crate::hosts::process::tail;
use crate::lifetime::down::sweep;
use crate::lifetime::reaper::Reaper;
use crate::lifetime::registry::{Registry, RunLock};
use crate::lifetime::run::Run;
use crate::lifetime::teardown::tear_down;

/// The name of the switch's namespace.
const SWITCH: &str = "switch";

/// A host of the lab: a namespace with an interface `eth0`, perhaps others, and addresses.
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

    /// The IPv4 address of its `eth0`.
    pub fn v4(&self) -> Ipv4Addr {
        self.first().v4
    }

    /// The IPv6 address of its `eth0`.
    pub fn v6(&self) -> Ipv6Addr {
        self.first().v6
    }

    /// The MAC address of its `eth0`.
    pub fn mac(&self) -> Mac {
        self.first().mac
    }

    /// Its `eth0`.
    pub fn first(&self) -> &Interface {
        self.identity.first()
    }

    /// Its interfaces, in the order of their names.
    pub fn interfaces(&self) -> &[Interface] {
        self.identity.interfaces()
    }

    /// Its interface on a network, if it is there.
    pub fn on(&self, network: Network) -> Option<&Interface> {
        self.interfaces()
            .iter()
            .find(|interface| interface.network == network)
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
    remotes: u8,
    vips: u8,
    has_back: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            balancers: 1,
            backends: 1,
            clients: 1,
            remotes: 0,
            vips: 1,
            has_back: false,
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

    /// The number of remote clients, 0 unless told otherwise. They are on [a network of their own](Network::Far), behind a
    /// router.
    #[must_use]
    pub fn remotes(mut self, number: u8) -> Self {
        self.remotes = number;
        self
    }

    /// Puts the backends on [a network of their own](Network::Back), which balancers reach by `eth1`. A router leads from
    /// there to the clients, for backends that answer them directly.
    #[must_use]
    pub fn backends_apart(mut self) -> Self {
        self.has_back = true;
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
        let (front, back) = (Network::Front, [Network::Back]);
        let behind = if self.has_back { back.as_slice() } else { &[] };
        let home = if self.has_back { Network::Back } else { front };
        let has_router = self.has_back || self.remotes > 0;
        let hosts = [
            identities(Role::Balancer, self.balancers, front, behind)?,
            identities(Role::Backend, self.backends, home, &[])?,
            identities(Role::Client, self.clients, front, &[])?,
            identities(Role::Remote, self.remotes, Network::Far, &[])?,
            identities(
                Role::Router,
                has_router.into(),
                front,
                &[&[Network::Far], behind].concat(),
            )?,
        ];

        let life = Life::begin()?;
        let mut names = vec![SWITCH];
        names.extend(hosts.iter().flatten().map(|host| host.name.as_str()));
        let mut namespaces = Namespace::create_all(&life.run, &names)?.into_iter();
        let switch = namespaces.next().context("a lab has a switch")?;
        let hosts = hosts.map(|identities| {
            let hosts = identities.into_iter().zip(namespaces.by_ref());
            hosts
                .map(|(identity, namespace)| Host { namespace, identity })
                .collect::<Vec<_>>()
        });
        let [balancers, backends, clients, remotes, routers] = hosts;
        let lab = Lab {
            switch,
            balancers,
            backends,
            clients,
            remotes,
            router: routers.into_iter().next(),
            vips,
            life,
        };
        network::build(&lab.switch, &lab.hosts().collect::<Vec<_>>(), &lab.vips)?;
        Ok(lab)
    }
}

fn identities(role: Role, number: u8, first: Network, others: &[Network]) -> Result<Vec<Identity>> {
    let identities: Vec<_> = (1..=number)
        .map_while(|number| Identity::new(role, number, first, others))
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

/// A network of namespaces: balancers, backends and clients on one switch. Where it was asked for, backends or some of the
/// clients are on other networks, with a router in between.
///
/// It disappears when it is dropped, with everything that runs in it. If this process is killed before that, a reaper
/// process does the same. Labs of several tests or processes do not see each other.
#[derive(Debug)]
pub struct Lab {
    switch: Namespace,
    balancers: Vec<Host>,
    backends: Vec<Host>,
    clients: Vec<Host>,
    remotes: Vec<Host>,
    router: Option<Host>,
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

    /// The namespace with the bridges. A host's `eth0` ends here in an interface that has the host's name, others in
    /// `balancer1-eth1` and the like.
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

    /// The clients behind the router, in the order of their numbers.
    pub fn remotes(&self) -> &[Host] {
        &self.remotes
    }

    /// The router, in a lab of several networks.
    pub fn router(&self) -> Result<&Host> {
        self.router
            .as_ref()
            .context("this lab has one network and no router: ask for remote clients or backends apart")
    }

    /// Makes the way from the router to a network's hosts narrower than their links: the router answers each packet to
    /// there that is longer than `mtu`, and may not be fragmented, by ICMP. The other way is as wide as ever.
    pub fn narrow(&self, network: Network, mtu: u16) -> Result<()> {
        network::narrow(self.router()?, network, mtu)
    }

    /// The virtual addresses.
    pub fn vips(&self) -> &[Vip] {
        &self.vips
    }

    /// All hosts: balancers, backends, clients, remote clients, the router.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        let near = self.balancers.iter().chain(&self.backends).chain(&self.clients);
        near.chain(&self.remotes).chain(&self.router)
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
        self.switch
            .enter(|| pass_program::attach(&network::ports(host).collect::<Vec<_>>()))?
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
            for (index, interface) in host.interfaces().iter().enumerate() {
                let (name, namespace) = if index == 0 {
                    (host.name(), format!("netns {}", host.full_name()))
                } else {
                    ("", interface.name.clone())
                };
                writeln!(
                    f,
                    "{name:<10} {:<12} {:<10} {namespace}",
                    interface.v4, interface.v6
                )?;
            }
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
