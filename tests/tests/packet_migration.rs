//! Tier 1: tables of other sizes take the place of those of an earlier run. The daemon's steps, one by one, with packets in
//! between, and with a kill after each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use lab::xdp_action;
use lb_common::counter::Counter;
use lb_common::headers::tcp::Flags;
use lb_common::layout::{ClientKey, FlowKey, Live, Slot, map};
use lb_common::testing::cases::CLIENT;
use lb_common::testing::tables::{AFFINE, NAT, NAT_BACKEND, NAT_TARGET, ONE, TARGETS};
use lb_common::testing::{Frame, HostTables};
use lb_ctl::adapters::datapath::{Datapath, Loaded, Pins, Sizes};
use lb_ctl::core::sync::Source as _;

const FLOWS: u32 = 1024;
const OTHER_FLOWS: u32 = 2048;

/// Where the slots lead: unrecorded packets to target 1, new connections to target 2.
const MOVED: Slot = Slot {
    settled: 1,
    current: 2,
    tracked: true,
    settled_seen: 0,
    grace: 0,
};

/// A node without interfaces, whose pins go with it.
struct Node {
    name: String,
    pins: Pins,
    host: HostTables,
}

impl Node {
    /// An earlier run's tables, in which all slots have moved.
    fn with_earlier_run(name: &str) -> (Self, Datapath) {
        let name = format!("lab-{}-{name}", std::process::id());
        let mut pins = Pins::of(&name);
        pins.create().expect("tests need root");
        let node = Self {
            name,
            pins,
            host: HostTables::fixture(),
        };
        let mut old = Datapath::load(node.sizes(FLOWS)).unwrap();
        for index in (0..).take(node.host.slots.len()) {
            old.write_slot(index, MOVED).unwrap();
        }
        for (id, &target) in (0..).zip(&node.host.targets) {
            old.write_target(id, target).unwrap();
        }
        for (&key, &service) in &node.host.services {
            old.write_service(key, service).unwrap();
        }
        old.write_node(&node.host.node.unwrap()).unwrap();
        node.pins.pin_maps(&mut old).unwrap();
        old.set_awaits_records(false).unwrap();
        node.pins.publish_maps().unwrap();
        (node, old)
    }

    fn sizes(&self, flows: u32) -> Sizes {
        Sizes {
            services: u32::try_from(self.host.services.len()).unwrap(),
            slots: u32::try_from(self.host.slots.len()).unwrap(),
            targets: u32::from(TARGETS),
            flows,
            half_open: 1024,
        }
    }

    /// What a start with other sizes finds: tables that it fills from the old ones.
    fn migrate(&self) -> (Datapath, Datapath) {
        match Datapath::load_or_adopt(self.sizes(OTHER_FLOWS), &self.pins).unwrap() {
            Loaded::Migrated { datapath, old } => (datapath, *old),
            Loaded::New(_) => panic!("the tables of the earlier run are gone"),
            Loaded::Adopted(_) => panic!("tables count that are not complete"),
        }
    }

    /// What a start with the same other sizes finds: tables that it takes over.
    fn adopt(&self) -> Datapath {
        match Datapath::load_or_adopt(self.sizes(OTHER_FLOWS), &self.pins).unwrap() {
            Loaded::Adopted(datapath) => datapath,
            Loaded::New(_) => panic!("the tables of the earlier run are gone"),
            Loaded::Migrated { .. } => panic!("the tables have the old sizes"),
        }
    }

    /// The target that gets a segment, or nobody.
    fn send(&self, datapath: &mut Datapath, port: u16, flags: u8, sequence: u32) -> Option<u16> {
        let client = SocketAddr::new(CLIENT.ip(), port);
        self.send_to(ONE, datapath, client, flags, sequence)
    }

    /// Likewise, of any client to any service.
    fn send_to(
        &self,
        service: SocketAddr,
        datapath: &mut Datapath,
        client: SocketAddr,
        flags: u8,
        sequence: u32,
    ) -> Option<u16> {
        let frame = Frame::new(client, service)
            .flags(flags)
            .sequence(sequence)
            .bytes();
        let output = datapath.test_run(&frame).unwrap();
        if output.action == xdp_action::DROP {
            return None;
        }
        assert_eq!(output.action, xdp_action::TX);
        (1..TARGETS).find(|id| self.host.targets[usize::from(*id)].addresses() == output.frame[..12])
    }

    /// A handshake, and some data.
    fn connect(&self, datapath: &mut Datapath, port: u16) {
        assert_eq!(self.send(datapath, port, Flags::SYN, 100), Some(2));
        assert_eq!(self.send(datapath, port, Flags::ACK, 101), Some(2));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.pins.remove() {
            eprintln!("the pins stay: {error}");
        }
    }
}

fn recorded(datapath: &Datapath, port: u16) -> bool {
    let key = FlowKey::new(CLIENT.ip().into(), port, 0);
    datapath.flow_record(key).unwrap().is_some()
}

/// The live connections of target 2.
fn live(datapath: &Datapath) -> u32 {
    datapath.live(2).connections()
}

#[test]
fn live_connections_are_counted_when_the_tables_of_an_earlier_version_have_no_such_count() {
    let (node, mut old) = Node::with_earlier_run("uncounted");
    for port in [1000, 1001, 1002] {
        node.connect(&mut old, port);
    }
    node.send(&mut old, 1001, Flags::ACK | Flags::RST, 102);
    let directory = Path::new("/sys/fs/bpf/lb-ctl").join(&node.name);
    let version = std::fs::read_dir(&directory).unwrap().next().unwrap().unwrap();
    std::fs::remove_file(version.path().join("maps").join(map::LIVE)).unwrap();

    let Loaded::Migrated {
        datapath: mut new,
        old: copied,
    } = Datapath::load_or_adopt(node.sizes(FLOWS), &node.pins).unwrap()
    else {
        panic!("the tables are not complete");
    };
    assert_eq!(live(&copied), 0, "nobody has counted");
    node.pins.pin_maps(&mut new).unwrap();
    node.connect(&mut old, 1003);
    new.catch_up_with(&copied).unwrap();
    new.set_awaits_records(false).unwrap();
    assert_eq!(live(&new), 3);
    drop((new, copied));
    let Loaded::Adopted(adopted) = Datapath::load_or_adopt(node.sizes(FLOWS), &node.pins).unwrap() else {
        panic!("they are complete now");
    };
    assert_eq!(live(&adopted), 3);
}

#[test]
fn whoever_listened_is_gone_with_its_process_and_its_news_with_its_program() {
    let (node, mut old) = Node::with_earlier_run("listener");
    old.listen(true).unwrap();
    node.connect(&mut old, 1000);
    // Killed, so that nobody has said that it listens no more.
    drop(old);
    let Loaded::Adopted(mut adopted) = Datapath::load_or_adopt(node.sizes(FLOWS), &node.pins).unwrap() else {
        panic!("news are not kept, so nothing is missing");
    };
    let mut source = adopted.peer_source().unwrap();
    node.connect(&mut adopted, 1001);
    assert_eq!(source.changes().flows().len(), 1, "the table still says so");
    adopted.write_node(&node.host.node.unwrap()).unwrap();
    node.connect(&mut adopted, 1002);
    assert!(source.changes().is_empty(), "until it is written");
    adopted.listen(true).unwrap();
    assert!(source.changes().is_anything());
    node.connect(&mut adopted, 1003);
    let key = FlowKey::new(CLIENT.ip().into(), 1003, 0);
    assert_eq!(source.changes().flows(), [key]);
}

#[test]
fn what_is_opened_while_tables_are_exchanged_goes_where_it_began() {
    let (node, mut old) = Node::with_earlier_run("exchange");
    node.connect(&mut old, 1000);
    // A connection whose port is used again while the tables are exchanged, by one that goes elsewhere.
    assert_eq!(node.send(&mut old, 1001, Flags::SYN, 500), Some(2));

    let (mut new, copied) = node.migrate();
    node.pins.pin_maps(&mut new).unwrap();
    // The old program is attached still.
    node.connect(&mut old, 1002);
    assert_eq!(node.send(&mut old, 1003, Flags::SYN, 900), Some(2));
    assert_eq!(node.send(&mut old, 1001, Flags::ACK, 501), Some(2));
    assert_eq!(node.send(&mut old, 1000, Flags::ACK | Flags::FIN, 200), Some(2));

    // And now the new one. An answer from target 1, which knows none of them, would be a reset.
    for (port, flags, sequence) in [
        (1000, Flags::ACK, 102),
        (1001, Flags::ACK, 502),
        (1002, Flags::ACK, 102),
        (1003, Flags::ACK, 901),
        (1004, Flags::SYN, 1),
        (1005, Flags::ACK, 1),
    ] {
        assert_eq!(node.send(&mut new, port, flags, sequence), None, "port {port}");
    }
    assert_eq!(new.counter(Counter::DropRecordsAwaited).unwrap(), 6);
    new.write_node(&node.host.node.unwrap()).unwrap();
    assert_eq!(
        node.send(&mut new, 1000, Flags::ACK, 102),
        None,
        "whatever else is written"
    );

    new.catch_up_with(&copied).unwrap();
    let closing = new
        .flow_record(FlowKey::new(CLIENT.ip().into(), 1000, 0))
        .unwrap();
    assert_ne!(closing.unwrap().closing, 0, "what it became after the first copy");
    assert_eq!(live(&new), 2, "1001 and 1002; 1000 is closing");
    assert_eq!(live(&new), live(&copied));
    new.set_awaits_records(false).unwrap();
    for (port, sequence) in [(1000, 103), (1001, 503), (1002, 103), (1003, 901)] {
        assert_eq!(
            node.send(&mut new, port, Flags::ACK, sequence),
            Some(2),
            "port {port}"
        );
        assert!(recorded(&new, port));
    }
    let half_open = |port| new.half_open_record(FlowKey::new(CLIENT.ip().into(), port, 0));
    assert_eq!(
        half_open(1001).unwrap(),
        None,
        "it was removed after the first copy"
    );
    assert_eq!(
        node.send(&mut new, 1005, Flags::ACK, 1),
        Some(1),
        "from before the move"
    );
}

#[test]
fn the_end_of_a_translated_connection_waits_for_its_record() {
    let (node, mut old) = Node::with_earlier_run("answers");
    for index in (0..).take(node.host.slots.len()) {
        old.write_slot(index, Slot::untracked(NAT_TARGET)).unwrap();
    }
    let connect = |datapath: &mut Datapath, port| {
        let client = SocketAddr::new(CLIENT.ip(), port);
        for (flags, sequence) in [(Flags::SYN, 100), (Flags::ACK, 101)] {
            let target = node.send_to(NAT, datapath, client, flags, sequence);
            assert_eq!(target, Some(NAT_TARGET), "port {port}");
        }
    };
    // The client's own port stands for it.
    let answer = |datapath: &mut Datapath, port, flags| {
        let frame = Frame::new(NAT_BACKEND, SocketAddr::new(NAT.ip(), port)).flags(flags);
        datapath.test_run(&frame.bytes()).unwrap().action
    };
    let live = |datapath: &Datapath| datapath.live(NAT_TARGET).connections();
    let service = node.host.service(NAT).id;
    let closing = |datapath: &Datapath, port| {
        let flow = FlowKey::new(CLIENT.ip().into(), port, service);
        datapath.flow_record(flow).unwrap().unwrap().closing != 0
    };

    connect(&mut old, 1000);
    connect(&mut old, 1001);
    let (mut new, copied) = node.migrate();
    node.pins.pin_maps(&mut new).unwrap();
    // Its record is in the old tables alone, its way back soon in both.
    connect(&mut old, 1002);
    let end = Flags::FIN | Flags::ACK;
    assert_eq!(
        answer(&mut new, 1000, Flags::ACK),
        xdp_action::TX,
        "nothing to remember"
    );
    assert_eq!(answer(&mut new, 1000, end), xdp_action::DROP);
    assert_eq!(answer(&mut new, 1001, Flags::RST), xdp_action::DROP);
    assert_eq!(answer(&mut new, 1002, end), xdp_action::DROP);
    assert_eq!(new.counter(Counter::DropRecordsAwaited).unwrap(), 3);
    // Whatever has come into the new count meanwhile is not what the records say.
    let wrong = Live {
        established: 7,
        assigned: 0,
    };
    new.write_live(3, wrong);

    new.catch_up_with(&copied).unwrap();
    assert_eq!((live(&new), new.live(3)), (3, Live::default()));
    assert_eq!(answer(&mut new, 1002, end), xdp_action::DROP, "until it is told");
    new.set_awaits_records(false).unwrap();
    for port in [1000, 1001, 1002] {
        assert!(!closing(&new, port), "port {port}");
        assert_eq!(answer(&mut new, port, end), xdp_action::TX, "sent again");
        assert!(closing(&new, port), "port {port}");
    }
    assert_eq!(live(&new), 0);
}

#[test]
fn clients_are_at_home_where_they_were_noted_before_and_while_tables_are_exchanged() {
    let (node, mut old) = Node::with_earlier_run("homes");
    let client = |number: u8, port| SocketAddr::new(IpAddr::from([198, 51, 100, number]), port);
    let mut port = 40_000;
    let mut connect = |datapath: &mut Datapath, number| {
        port += 1;
        let mut send =
            |flags, sequence| node.send_to(AFFINE, datapath, client(number, port), flags, sequence);
        let target = send(Flags::SYN, 100);
        assert_eq!(send(Flags::ACK, 101), target);
        target
    };
    assert_eq!(connect(&mut old, 7), Some(2));
    let (mut new, copied) = node.migrate();
    node.pins.pin_maps(&mut new).unwrap();
    assert_eq!(connect(&mut old, 8), Some(2), "after the first copy");
    assert_eq!(connect(&mut new, 9), None, "records are awaited");

    // Strangers would go to target 3.
    for index in (0..).take(node.host.slots.len()) {
        let slot = Slot { current: 3, ..MOVED };
        old.write_slot(index, slot).unwrap();
    }
    new.catch_up_with(&copied).unwrap();
    new.set_awaits_records(false).unwrap();
    for (number, expected) in [(7, 2), (8, 2), (9, 3)] {
        assert_eq!(connect(&mut new, number), Some(expected), "client {number}");
    }
    let service = node.host.service(AFFINE).id;
    for number in [7, 8] {
        let key = ClientKey::new(client(number, 0).ip().into(), service);
        let noted = |datapath: &Datapath| datapath.affinity(key).unwrap().map(|it| it.target);
        assert_eq!((noted(&new), noted(&copied)), (Some(2), Some(2)));
    }
}

#[test]
fn a_kill_anywhere_leaves_one_set_of_tables_with_all_records() {
    let (node, mut old) = Node::with_earlier_run("kill");
    node.connect(&mut old, 1000);

    // After the new ones were pinned, and before they were complete, the old ones count.
    let (mut new, _) = node.migrate();
    node.pins.pin_maps(&mut new).unwrap();
    node.connect(&mut old, 1001);
    drop(new);
    let (mut new, copied) = node.migrate();
    for port in [1000, 1001] {
        assert!(recorded(&new, port), "port {port}");
    }

    // After they were complete, the new ones do, whatever they are called.
    node.pins.pin_maps(&mut new).unwrap();
    node.connect(&mut old, 1002);
    new.catch_up_with(&copied).unwrap();
    new.set_awaits_records(false).unwrap();
    node.connect(&mut new, 1003);
    drop((new, copied));
    let adopted = node.adopt();
    for port in [1000, 1001, 1002, 1003] {
        assert!(recorded(&adopted, port), "port {port}");
    }
    drop(adopted);
    let adopted = node.adopt();
    assert!(recorded(&adopted, 1003));
}
