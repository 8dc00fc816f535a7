//! `lb-ctl` on a balancer of a lab, as an operator runs it.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::layout::{Slot, VERSION, map};
use lb_ctl::core::explain::Explanation;
use lb_ctl::core::status::{BackendStatus, Status, VrrpStatus};

use super::{HS2_PORT, PATIENCE};
use crate::hosts::lab::{Host, Lab};
use crate::hosts::process::Process;
use crate::programs;
use crate::wait::wait_until;

/// The text of a configuration file, put together.
#[derive(Clone, Debug)]
pub struct Configuration {
    text: String,
    node: String,
    socket: PathBuf,
}

impl Configuration {
    /// The configuration of a balancer, without services. Node name and socket are unique, so that labs can run side by
    /// side: pins and sockets are not in a namespace.
    pub fn of(lab: &Lab, host: &Host) -> Self {
        let node = host.full_name().to_owned();
        let socket = lab.directory().join(format!("{}.sock", host.name()));
        let text = format!(
            "[node]\nname = \"{node}\"\nstate_dir = \"{}\"\n\n[datapath]\ninterfaces = [\"eth0\"]\n\n[api]\nsocket = \"{}\"\n",
            lab.directory().display(),
            socket.display()
        );
        Self { text, node, socket }
    }

    /// Adds a service on HiveServer2's port with these backends: name, address, weight.
    #[must_use]
    pub fn service(mut self, name: &str, vip: IpAddr, backends: &[(&str, IpAddr, u32)]) -> Self {
        self.write_service(name, vip, "", backends);
        self
    }

    /// The same, with a way of forwarding: `dsr`, `ipip` or `nat`.
    #[must_use]
    pub fn service_by(
        mut self,
        forward: &str,
        name: &str,
        vip: IpAddr,
        backends: &[(&str, IpAddr, u32)],
    ) -> Self {
        self.write_service(name, vip, &format!("forward = \"{forward}\"\n"), backends);
        self
    }

    fn write_service(&mut self, name: &str, vip: IpAddr, more: &str, backends: &[(&str, IpAddr, u32)]) {
        // Writing to a string cannot fail.
        let _ = write!(
            self.text,
            "\n[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = {HS2_PORT}\n{more}"
        );
        for (name, address, weight) in backends {
            let _ = write!(
                self.text,
                "\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\nweight = {weight}\n"
            );
        }
    }

    /// Adds a service with `forward = "nat"`: its address and port, and the name, address and port of each backend.
    #[must_use]
    pub fn nat_service(mut self, name: &str, service: SocketAddr, backends: &[(&str, SocketAddr)]) -> Self {
        // Writing to a string cannot fail.
        let _ = write!(
            self.text,
            "\n[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {}\nforward = \"nat\"\n",
            service.ip(),
            service.port()
        );
        for (name, backend) in backends {
            let _ = write!(
                self.text,
                "\n[[service.backend]]\nname = \"{name}\"\naddress = \"{}\"\nport = {}\n",
                backend.ip(),
                backend.port()
            );
        }
        self
    }

    /// The service `impala` on the first VIP, IPv4, with all backends of the lab under their hosts' names.
    #[must_use]
    pub fn of_all_backends(lab: &Lab) -> Self {
        let backends: Vec<_> = lab
            .backends()
            .iter()
            .map(|host| (host.name(), host.v4().into(), 1))
            .collect();
        Self::of(lab, &lab.balancers()[0]).service("impala", lab.vips()[0].v4.into(), &backends)
    }

    /// The services `impala4` and `impala6` on the first VIP, one for each family, with all backends of the lab under their
    /// hosts' names.
    #[must_use]
    pub fn of_both_families(lab: &Lab) -> Self {
        let backends = |address: fn(&Host) -> IpAddr| -> Vec<_> {
            let hosts = lab.backends().iter();
            hosts.map(|host| (host.name(), address(host), 1)).collect()
        };
        let vip = lab.vips()[0];
        Self::of(lab, &lab.balancers()[0])
            .service("impala4", vip.v4.into(), &backends(|host| host.v4().into()))
            .service("impala6", vip.v6.into(), &backends(|host| host.v6().into()))
    }

    /// Adds text at the end.
    #[must_use]
    pub fn followed_by(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    /// Replaces a part of the text, which must be there.
    pub fn with(mut self, part: &str, replacement: &str) -> Result<Self> {
        ensure!(self.text.contains(part), "expected {part:?} in\n{}", self.text);
        self.text = self.text.replacen(part, replacement, 1);
        Ok(self)
    }

    /// The text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name of the node, under which its pins are.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The directory with the pins of the node.
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/lb-ctl").join(&self.node)
    }
}

/// A balancer host with its configuration file; the daemon may or may not run.
#[derive(Debug)]
pub struct Balancer {
    host: Host,
    configuration: Configuration,
    file: PathBuf,
    daemon: Option<Process>,
    starts: u32,
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Balancer {
    /// Writes the configuration file. Starts nothing.
    pub fn prepare(lab: &Lab, host: &Host, configuration: Configuration) -> Result<Self> {
        lab.on_teardown_remove(configuration.pins())?;
        let file = lab.directory().join(format!("{}.toml", host.name()));
        let balancer = Self {
            host: host.clone(),
            configuration,
            file,
            daemon: None,
            starts: 0,
        };
        balancer.write_configuration()?;
        Ok(balancer)
    }

    /// Writes the configuration file and starts the daemon; returns when it is ready.
    pub fn start(lab: &Lab, host: &Host, configuration: Configuration) -> Result<Self> {
        let mut balancer = Self::prepare(lab, host, configuration)?;
        balancer.run(&[])?;
        Ok(balancer)
    }

    /// Starts the daemon with these options, and returns when it is ready.
    pub fn run(&mut self, options: &[&str]) -> Result<()> {
        self.begin(options)?;
        self.daemon()?.wait_for_line(" ready ", PATIENCE)?;
        Ok(())
    }

    /// Starts the daemon after a shell command, such as `mount`, whose mounts only they see and which end with them. Returns when it
    /// is ready.
    pub fn run_after(&mut self, preparation: &str) -> Result<()> {
        // The shell becomes the daemon, so that signals reach it.
        let script = format!("{preparation}; exec \"$@\"");
        self.begin_under(&["unshare", "--mount", "sh", "-ec", &script, "sh"], &[], &[])?;
        self.daemon()?.wait_for_line(" ready ", PATIENCE)?;
        Ok(())
    }

    /// Starts the daemon with these options, and returns at once.
    pub fn begin(&mut self, options: &[&str]) -> Result<()> {
        self.begin_under(&[], &[], options)
    }

    /// The same, by a program that runs the rest of its command line, with these variables in the environment.
    pub fn begin_under(
        &mut self,
        launcher: &[&str],
        variables: &[(&str, &str)],
        options: &[&str],
    ) -> Result<()> {
        let lb_ctl = programs::find("lb-ctl")?;
        let mut command = match launcher {
            [] => self.host.command(lb_ctl)?,
            [program, arguments @ ..] => {
                let mut command = self.host.command(program)?;
                command.args(arguments).arg(lb_ctl);
                command
            }
        };
        command.envs(variables.iter().copied());
        command.arg("run").arg("--config").arg(&self.file).args(options);
        self.starts += 1;
        let daemon = self
            .host
            .spawn(&format!("lb-ctl-{}", self.starts), &mut command)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// The running daemon.
    pub fn daemon(&mut self) -> Result<&mut Process> {
        self.daemon.as_mut().context("the daemon has not been started")
    }

    /// Puts another configuration into the file.
    pub fn reconfigure(&mut self, configuration: Configuration) -> Result<()> {
        self.configuration = configuration;
        self.write_configuration()
    }

    /// Runs `lb-ctl` with these arguments on the balancer's host, until it ends.
    pub fn lb_ctl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.host.command(programs::find("lb-ctl")?)?;
        command
            .arg("--socket")
            .arg(&self.configuration.socket)
            .args(arguments);
        run(&mut command)
    }

    /// Starts `lb-ctl` with these arguments on the balancer's host, and returns at once. The name is for its log.
    pub fn begin_lb_ctl(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        let mut command = self.host.command(programs::find("lb-ctl")?)?;
        command
            .arg("--socket")
            .arg(&self.configuration.socket)
            .args(arguments);
        self.host.spawn(name, &mut command)
    }

    /// Runs `lb-ctl` like [`Balancer::lb_ctl`], but without naming this balancer's socket, and for at most a minute.
    pub fn lb_ctl_alone(&self, arguments: &[&str]) -> Result<Output> {
        // A daemon that starts although it should not would run for ever.
        let mut command = self.host.command("timeout")?;
        command.arg("60").arg(programs::find("lb-ctl")?).args(arguments);
        run(&mut command)
    }

    /// The command line that shows the status, for people to type.
    pub fn status_command(&self) -> Result<String> {
        let lb_ctl = programs::find("lb-ctl")?;
        Ok(format!(
            "{} --socket {} status",
            lb_ctl.display(),
            self.configuration.socket.display()
        ))
    }

    /// What `lb-ctl status --json` says.
    pub fn status(&self) -> Result<Status> {
        let output = self.lb_ctl(&["status", "--json"])?;
        ensure!(output.code == Some(0), "lb-ctl status failed: {output:?}");
        serde_json::from_str(&output.stdout).context("the status is not understood")
    }

    /// What `lb-ctl explain --json` says about a client's port and a service.
    pub fn explain(&self, client: SocketAddr, service: &str) -> Result<Explanation> {
        let output = self.lb_ctl(&["explain", &client.to_string(), service, "--json"])?;
        ensure!(output.code == Some(0), "lb-ctl explain failed: {output:?}");
        serde_json::from_str(&output.stdout).context("the explanation is not understood")
    }

    /// The backends of the first service, as the status shows them.
    pub fn backends(&self) -> Result<Vec<BackendStatus>> {
        let service = self.status()?.services.into_iter().next();
        Ok(service.context("expected a service in the status")?.backends)
    }

    /// The first VRRP instance, as the status shows it.
    pub fn instance(&self) -> Result<VrrpStatus> {
        let instance = self.status()?.vrrp.into_iter().next();
        instance.context("expected an instance in the status")
    }

    /// Waits until the first VRRP instance is in this state.
    pub fn wait_for_state(&self, expected: &str) -> Result<VrrpStatus> {
        wait_until(&format!("the state {expected}"), PATIENCE, || {
            let instance = self.instance()?;
            ensure!(instance.state == expected, "{instance:?}");
            Ok(instance)
        })
    }

    /// Has every slot's packets consult the flow table, as if all slots were on the move; says how many slots that are.
    /// Behind the controller's back, which settles them, or loads others at its next start. Targets stay as they are.
    pub fn track_all_slots(&self) -> Result<u32> {
        let mut slots = self.pinned_words(map::SLOTS)?;
        let services = self.status()?.services;
        let used = services.iter().flat_map(|service| &service.backends);
        let used = u32::try_from(used.map(|backend| u64::from(backend.slots)).sum::<u64>())?;
        for index in 0..used {
            let slot = Slot::from_bits(slots.get(&index, 0)?);
            let tracked = Slot {
                tracked: true,
                ..slot
            };
            slots.set(index, tracked.to_bits(), 0)?;
        }
        Ok(used)
    }

    /// Makes the count of live connections wrong, by so many more than there are, of all targets up to this id. Behind the backs of
    /// controller and kernel: one that counts meanwhile is not heard.
    pub fn miscount(&self, targets: u32, more: u64) -> Result<()> {
        let mut live = self.pinned_words(map::LIVE)?;
        for id in 1..=targets {
            // The count is the lower half of the word.
            live.set(id, live.get(&id, 0)?.wrapping_add(more), 0)?;
        }
        Ok(())
    }

    /// A pinned array of words of 8 bytes.
    fn pinned_words(&self, name: &str) -> Result<Array<MapData, u64>> {
        let maps = self.configuration.pins().join(format!("v{VERSION}/maps"));
        let pin = maps.join(name);
        let words =
            MapData::from_pin(&pin).with_context(|| format!("cannot open the map {}", pin.display()))?;
        Ok(Array::try_from(Map::Array(words))?)
    }

    /// The file in which operators' decisions are kept.
    pub fn decisions(&self) -> PathBuf {
        let name = format!("{}.decisions.json", self.configuration.node);
        self.file.with_file_name(name)
    }

    /// The configuration.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The configuration file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    fn write_configuration(&self) -> Result<()> {
        fs::write(&self.file, &self.configuration.text)
            .with_context(|| format!("cannot write {}", self.file.display()))
    }
}

/// Runs a command to its end.
pub(super) fn run(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Output {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    })
}
