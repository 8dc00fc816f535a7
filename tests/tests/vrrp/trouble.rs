//! Trouble, and changes, while somebody is master.

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use lab::balancing::{Balancer, PATIENCE};
use lab::clients::http::request_blocking;
use lab::{ETH_P_ALL, Halted, Host, Lab, wait_until};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    Dialect, IPV4, IPV6, configuration, holds, instance, pair, wait_for_both, wait_for_holder, wait_for_state,
};

pub(super) const ARP: [u8; 2] = [0x08, 0x06];

/// The frames that a host sees from now on.
pub(super) struct Frames(Socket);

impl Frames {
    pub(super) fn of(host: &Host) -> Self {
        Self::with(host, ETH_P_ALL)
    }

    /// Those of ARP: others, of which there may be many, do not fill the buffer.
    pub(super) fn of_arp(host: &Host) -> Self {
        Self::with(host, u16::from_ne_bytes(ARP).into())
    }

    fn with(host: &Host, protocol: i32) -> Self {
        let open = || {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol))).unwrap();
            socket.set_recv_buffer_size(4 << 20).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        Self(host.enter(open).unwrap())
    }

    /// Those that have come since this was last asked.
    pub(super) fn read(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut frame = [0; 2048];
        while let Ok(length) = self.0.read(&mut frame) {
            frames.push(frame[..length].to_vec());
        }
        frames
    }
}

/// Of these frames, how many are advertisements by which this host is master.
fn advertisements(frames: &[Vec<u8>], host: &Host) -> usize {
    let is_one = |frame: &&Vec<u8>| {
        is_from(frame, host) && frame[12..14] == [0x08, 0] && frame[23] == 112 && frame[14 + 20 + 2] != 0
    };
    frames.iter().filter(is_one).count()
}

fn is_from(frame: &[u8], host: &Host) -> bool {
    frame.len() >= 42 && frame[6..12] == host.mac().0
}

/// How often an instance has become master, or backup.
fn times(balancer: &Balancer, state: &str) -> u64 {
    instance(balancer).transitions[state]
}

#[test]
fn advertisements_go_on_while_the_kernel_does_not_answer_and_addresses_come_when_it_does() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), IPV4.vip(&lab));
    let mut balancers = [(0, 200), (1, 100)].map(|(number, priority)| {
        let ours = configuration(&lab, number, IPV4, &format!("priority = {priority}\n"));
        Balancer::start(&lab, &hosts[number], ours).unwrap()
    });
    wait_for_holder(hosts, vip, [true, false]);
    wait_for_state(&balancers[1], "backup");
    let mut frames = Frames::of(&lab.clients()[0]);

    // The master's hands are tied, and there is news to look at.
    let halted = Halted::of(balancers[0].daemon().unwrap().id(), "vrrp-hands").unwrap();
    frames.read();
    let before = times(&balancers[1], "master");
    for host in 1..=25 {
        let address = format!("198.51.100.{host}/32");
        hosts[0]
            .run(&["ip", "address", "add", &address, "dev", "eth0"])
            .unwrap();
        sleep(Duration::from_millis(100));
    }
    let sent = advertisements(&frames.read(), &hosts[0]);
    // One every 300 ms for 2.5 s and more. Half of them would do: this is no measurement of the machine.
    assert!(sent >= 4, "{sent} advertisements");
    assert_eq!(times(&balancers[1], "master"), before);
    drop(halted);

    // The backup's are, and it takes over: it says so, and has the address as soon as it can.
    frames.read();
    let halted = Halted::of(balancers[1].daemon().unwrap().id(), "vrrp-hands").unwrap();
    balancers[0].daemon().unwrap().kill().unwrap();
    wait_for_state(&balancers[1], "master");
    sleep(Duration::from_secs(2));
    let seen = frames.read();
    assert!(advertisements(&seen, &hosts[1]) >= 3);
    assert!(!holds(&hosts[1], vip));
    let announces = |frame: &Vec<u8>| {
        let IpAddr::V4(vip) = vip else {
            panic!("expected IPv4")
        };
        is_from(frame, &hosts[1]) && frame[12..14] == ARP && frame[28..32] == vip.octets()
    };
    assert!(!seen.iter().any(announces), "nobody would answer for it");
    drop(halted);
    let mut told = false;
    wait_until(
        "the address to come, and the neighbours to be told",
        PATIENCE,
        || {
            told |= frames.read().iter().any(announces);
            told && holds(&hosts[1], vip)
        },
    )
    .unwrap();
}

#[test]
fn hooks_are_told_when_the_addresses_have_followed() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (host, vip) = (&lab.balancers()[0], IPV4.vip(&lab));
    let log = lab.directory().join("told");
    // The first word that it is told is its own name to the shell.
    let script = format!(
        "echo $2 $(ip -o addr show dev eth0 | grep -c ' {vip}/') >> {}",
        log.display()
    );
    let ours = configuration(
        &lab,
        0,
        IPV4,
        &format!("notify = [\"/bin/sh\", \"-c\", \"{script}\"]\n"),
    );
    let mut balancer = Balancer::start(&lab, host, ours).unwrap();
    wait_for_state(&balancer, "master");
    let told = || fs::read_to_string(&log).unwrap_or_default();
    wait_until("the hook to be told", PATIENCE, || {
        told().contains("MASTER").then_some(()).ok_or(told())
    })
    .unwrap();
    balancer.daemon().unwrap().terminate(PATIENCE).unwrap();
    assert_eq!(told(), "BACKUP 0\nMASTER 1\nSTOP 0\n");
}

#[test]
fn a_thread_that_hangs_is_told_of_until_it_goes_on() {
    const AUTHORITY: &str = "127.0.0.1:9410";
    let lab = Lab::builder().balancers(2).start().unwrap();
    let http = format!("[http]\nlisten = [\"{AUTHORITY}\"]\n\n[api]");
    let ours = configuration(&lab, 0, IPV4, "").with("[api]", &http).unwrap();
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], ours).unwrap();
    wait_for_state(&balancer, "master");
    let id = balancer.daemon().unwrap().id();
    let condition = || {
        let ask = || request_blocking(Method::GET, AUTHORITY, "/healthz", PATIENCE);
        let answer = lab.balancers()[0].enter(ask).unwrap().unwrap();
        (answer.status, answer.body)
    };
    assert_eq!(condition().0, StatusCode::OK);
    let halted = Halted::of(id, "vrrp").unwrap();
    wait_until("the silence to be noticed", PATIENCE, || {
        let (status, body) = condition();
        let is_told = status == StatusCode::SERVICE_UNAVAILABLE && body.contains("the VRRP thread hangs");
        is_told.then_some(()).ok_or(body)
    })
    .unwrap();
    drop(halted);
    wait_until("a sign of life", PATIENCE, || condition().0 == StatusCode::OK).unwrap();
}

/// Between advertisements, where the kernel is busy.
const BUSY_INTERVAL: Duration = Duration::from_millis(150);
/// For how long the backup hears nothing before it takes over, at its priority of 100: three intervals and 156 / 256 of one.
const BUSY_PATIENCE: Duration = Duration::from_millis(542);
/// How soon VRRP looks at the host after the kernel has told of something, and as much again.
const LOOK: Duration = Duration::from_millis(200);

/// As many links as the kernel needs to be busy with for longer than the backup waits, when all of them are set down in one go: so long nobody
/// else gets at its network configuration. How many that are depends on the machine.
fn links_to_be_busy_with(host: &Host, directory: &std::path::Path) {
    let batch = directory.join("links");
    for round in 0..16 {
        let lines = |number: usize| {
            format!(
                "link add name va{number} type veth peer name vb{number}\nlink set va{number} group 7\nlink set vb{number} group 7\n"
            )
        };
        fs::write(
            &batch,
            (500 * round..500 * (round + 1)).map(lines).collect::<String>(),
        )
        .unwrap();
        host.run(&["ip", "-batch", batch.to_str().unwrap()]).unwrap();
        host.run(&["ip", "link", "set", "group", "7", "up"]).unwrap();
        let began = Instant::now();
        host.run(&["ip", "link", "set", "group", "7", "down"]).unwrap();
        if began.elapsed() >= BUSY_PATIENCE + LOOK {
            return;
        }
    }
    panic!("expected the kernel to be busy with 16,000 links");
}

/// The kernel's lock for its network configuration is held for longer than the backup waits, again and again, each time after there was news
/// to look at.
#[test]
fn a_busy_kernel_is_no_reason_to_move() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), IPV4.vip(&lab));
    let interval = format!("{}ms", BUSY_INTERVAL.as_millis());
    let balancers = [(0, 200), (1, 100)].map(|(number, priority)| {
        let ours = configuration(&lab, number, IPV4, &format!("priority = {priority}\n"));
        Balancer::start(&lab, &hosts[number], ours.with("300ms", &interval).unwrap()).unwrap()
    });
    wait_for_holder(hosts, vip, [true, false]);
    let before = times(&balancers[1], "master");
    links_to_be_busy_with(&hosts[0], lab.directory());
    let waits = Duration::from_millis(instance(&balancers[1]).master_down_ms);
    assert!(waits <= BUSY_PATIENCE, "{waits:?}");
    let news = |number: u32| {
        format!("link set group 7 up\naddress add 198.18.0.{number}/32 dev eth0\nlink set group 7 down\n")
    };
    let batch = lab.directory().join("news");
    fs::write(&batch, (1..=6).map(news).collect::<String>()).unwrap();
    hosts[0].run(&["ip", "-batch", batch.to_str().unwrap()]).unwrap();
    assert_eq!(times(&balancers[1], "master"), before);
    wait_for_state(&balancers[0], "master");
}

#[test]
fn another_source_does_not_unseat_a_master() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), IPV4.vip(&lab));
    let ours = configuration(&lab, 0, IPV4, "");
    let mut balancer = Balancer::start(&lab, &hosts[0], ours.clone()).unwrap();
    let first = IpAddr::from(hosts[0].v4());
    let source = |balancer: &Balancer| {
        let status = instance(balancer);
        (status.state == "master").then_some(status.master).flatten()
    };
    wait_until("our being master", PATIENCE, || source(&balancer) == Some(first)).unwrap();
    let (before, second) = (times(&balancer, "master"), "10.77.0.210");
    hosts[0]
        .run(&["sysctl", "-w", "net.ipv4.conf.eth0.promote_secondaries=1"])
        .unwrap();
    let address = |verb: &str, address: &str| {
        hosts[0]
            .run(&["ip", "address", verb, &format!("{address}/24"), "dev", "eth0"])
            .unwrap();
    };
    // Another one, which is kept when there are two again, though it comes after the first.
    address("add", second);
    assert_eq!(source(&balancer), Some(first), "it has no reason to take another");
    address("del", &first.to_string());
    let second = Some(second.parse().unwrap());
    wait_until("the other source", PATIENCE, || source(&balancer) == second).unwrap();
    address("add", &first.to_string());
    sleep(Duration::from_secs(1));
    assert_eq!(source(&balancer), second);
    assert_eq!(times(&balancer, "master"), before, "nobody has noticed");
    assert!(holds(&hosts[0], vip));

    // The configured one, and no other.
    let with_source = ours.clone().followed_by(&format!("source = \"{first}\"\n"));
    balancer.reconfigure(with_source).unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    wait_until("the configured source", PATIENCE, || {
        source(&balancer) == Some(first)
    })
    .unwrap();
    assert_eq!(times(&balancer, "master"), before);
    balancer
        .reconfigure(ours.followed_by("source = \"10.77.0.211\"\n"))
        .unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    let status = wait_for_state(&balancer, "fault");
    assert_eq!(
        status.cause,
        "the address 10.77.0.211, the configured source, is not on the interface; add it, or change `source`"
    );
    assert!(!holds(&hosts[0], vip));
}

#[test]
fn a_reload_leaves_a_master_master_whatever_it_changes_of_the_virtual_router() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (hosts, vip) = (lab.balancers(), IPV4.vip(&lab));
    let more: IpAddr = "10.77.0.220".parse().unwrap();
    let ours = configuration(&lab, 0, IPV4, "");
    let mut balancer = Balancer::start(&lab, &hosts[0], ours.clone()).unwrap();
    wait_for_state(&balancer, "master");
    let both = ours
        .clone()
        .with(
            &format!("addresses = [\"{vip}\"]"),
            &format!("addresses = [\"{more}\", \"{vip}\"]"),
        )
        .unwrap()
        .followed_by(&format!(
            "checksum = \"rfc5798\"\nunicast_peers = [\"{}\"]\nunicast_hop_limit = 64\npriority = 90\n",
            hosts[1].v4()
        ));
    balancer.reconfigure(both).unwrap();
    let plan = balancer
        .lb_ctl(&["plan", "--config", balancer.file().to_str().unwrap()])
        .unwrap();
    let expected =
        "VRRP: pair keeps its state; keys: addresses, priority, unicast_peers, unicast_hop_limit, checksum\n";
    assert!(plan.stdout.contains(expected), "{plan:?}");
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    wait_until("both addresses", PATIENCE, || {
        holds(&hosts[0], vip) && holds(&hosts[0], more)
    })
    .unwrap();
    assert_eq!(instance(&balancer).priority, 90);
    balancer.reconfigure(ours).unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    assert!(
        holds(&hosts[0], vip) && !holds(&hosts[0], more),
        "a reload waits for that"
    );
    let status = instance(&balancer);
    assert_eq!((status.transitions["master"], status.transitions["init"]), (1, 0));
}

#[test]
fn what_a_killed_master_has_left_goes_at_the_next_start_also_if_that_fails() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let (host, vip) = (&lab.balancers()[0], IPV4.vip(&lab));
    let ours = configuration(&lab, 0, IPV4, "");
    let mut balancer = Balancer::start(&lab, host, ours.clone()).unwrap();
    wait_for_holder(lab.balancers(), vip, [true, false]);
    balancer.daemon().unwrap().kill().unwrap();
    assert!(holds(host, vip));
    let backend = lab.backends()[0].v4().to_string();
    balancer
        .reconfigure(
            ours.with(&format!("address = \"{backend}\""), "address = \"203.0.113.1\"")
                .unwrap(),
        )
        .unwrap();
    let error = balancer.run(&[]).unwrap_err();
    assert!(format!("{error:#}").contains("203.0.113.1"), "{error:#}");
    assert!(!holds(host, vip));
}

#[test]
fn several_peers_by_unicast_agree_on_one_master_after_another() {
    let dialect = Dialect {
        unicast: true,
        ..IPV4
    };
    let lab = Lab::builder().balancers(3).start().unwrap();
    let (hosts, vip) = (lab.balancers(), IPV4.vip(&lab));
    let mut balancers: Vec<Balancer> = [200_u8, 150, 100]
        .into_iter()
        .enumerate()
        .map(|(number, priority)| {
            let others = hosts.iter().enumerate().filter(|(other, _)| *other != number);
            let peers: Vec<String> = others
                .map(|(_, host)| dialect.address(host).to_string())
                .collect();
            let keys = format!("priority = {priority}\nunicast_peers = {peers:?}\n");
            let ours = configuration(&lab, number, IPV4, &keys);
            Balancer::start(&lab, &hosts[number], ours).unwrap()
        })
        .collect();
    let wait_for_master = |balancers: &[Balancer], master: usize| {
        for (number, balancer) in balancers.iter().enumerate().skip(master) {
            let expected = if number == master { "master" } else { "backup" };
            wait_for_state(balancer, expected);
            wait_until("the master to be known", PATIENCE, || {
                let found = instance(balancer).master;
                (found == Some(hosts[master].v4().into()))
                    .then_some(())
                    .ok_or(format!("{found:?}"))
            })
            .unwrap();
        }
    };
    wait_for_master(&balancers, 0);
    balancers[0].daemon().unwrap().terminate(PATIENCE).unwrap();
    wait_for_master(&balancers, 1);
    balancers[1].daemon().unwrap().kill().unwrap();
    wait_for_master(&balancers, 2);
    assert!(holds(&hosts[2], vip));
    assert_eq!(instance(&balancers[2]).rejected, []);
}

#[test]
fn a_backup_is_silent_about_the_addresses() {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let _balancers = pair(&lab);
    wait_for_both(&lab, [true, false]);
    let IpAddr::V4(vip) = IPV4.vip(&lab) else {
        panic!("expected IPv4")
    };
    let client = &lab.clients()[0];
    let mut frames = Frames::of(client);
    // Everybody on the link is asked, several times, and the backup about its own address as well, which it does answer.
    for address in [vip, lab.balancers()[1].v4()] {
        for _ in 0..3 {
            ask(client, address);
        }
    }
    let mut answered = [0; 3];
    wait_until("the answers", PATIENCE, || {
        for frame in frames.read() {
            let is_reply = frame.len() >= 42 && frame[12..14] == ARP && frame[20..22] == [0, 2];
            let about = |address: Ipv4Addr| is_reply && frame[28..32] == address.octets();
            let [master, backup] =
                [0, 1].map(|number: usize| frame[6..12] == lab.balancers()[number].mac().0);
            answered[0] += usize::from(about(vip) && master);
            answered[1] += usize::from(about(vip) && backup);
            answered[2] += usize::from(about(lab.balancers()[1].v4()) && backup);
        }
        (answered[0] >= 3 && answered[2] >= 3)
            .then_some(())
            .ok_or(format!("{answered:?}"))
    })
    .unwrap();
    assert_eq!(answered[1], 0, "the backup answers for the master's address");
}

/// Has a host ask everybody on the link for the MAC address of this address.
pub(super) fn ask(client: &Host, address: Ipv4Addr) {
    // What it knows it does not ask for; it may know nothing yet.
    let _ = client.run(&["ip", "neigh", "del", &address.to_string(), "dev", "eth0"]);
    client
        .enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            // Nobody needs to get it.
            socket.send_to(b"?", (address, 9)).unwrap();
        })
        .unwrap();
    sleep(Duration::from_millis(100));
}

/// The kernel forgets the multicast groups of an interface with its IPv6, which a small MTU ends, and does not join them again.
#[test]
fn a_backup_that_has_been_without_ipv6_hears_the_master_again() {
    go_without_ipv6(|_| {});
}

/// The second time while its link-local address cannot be used yet, and it has joined the groups already.
#[test]
fn a_backup_that_has_been_without_ipv6_twice_hears_the_master_again() {
    go_without_ipv6(|host| {
        wait_until("the group to be joined", PATIENCE, || {
            let groups = host
                .run(&["ip", "-6", "maddress", "show", "dev", "eth0"])
                .unwrap();
            groups.contains("ff02::12").then_some(()).ok_or(groups)
        })
        .unwrap();
        for mtu in ["1200", "1500"] {
            host.run(&["ip", "link", "set", "eth0", "mtu", mtu]).unwrap();
        }
    });
}

/// A backup loses IPv6, and then this happens while it comes back.
fn go_without_ipv6(meanwhile: impl FnOnce(&Host)) {
    let lab = Lab::builder().balancers(2).start().unwrap();
    let hosts = lab.balancers();
    let balancers = [(0, 200), (1, 100)].map(|(number, priority)| {
        let ours = configuration(&lab, number, IPV6, &format!("priority = {priority}\n"));
        let balancer = Balancer::start(&lab, &hosts[number], ours).unwrap();
        wait_for_state(&balancer, ["master", "backup"][number]);
        balancer
    });
    // From now on it takes a while until an address can be used.
    for parameter in ["accept_dad=1", "dad_transmits=3"] {
        let parameter = format!("net.ipv6.conf.default.{parameter}");
        hosts[1].run(&["sysctl", "-w", &parameter]).unwrap();
    }
    let set_mtu = |mtu| hosts[1].run(&["ip", "link", "set", "eth0", "mtu", mtu]).unwrap();
    set_mtu("1200");
    wait_for_state(&balancers[1], "fault");
    set_mtu("1500");
    meanwhile(&hosts[1]);
    wait_until("the master to be heard", PATIENCE, || {
        let status = instance(&balancers[1]);
        assert_ne!(status.state, "master", "{status:?}");
        (status.state == "backup" && status.master.is_some())
            .then_some(())
            .ok_or(format!("{status:?}"))
    })
    .unwrap();
}
