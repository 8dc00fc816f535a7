use super::*;
use crate::core::interface::Interface;
use proptest::prelude::*;

const FIRST: Mac = [2, 0, 0, 0, 0, 10];
const SECOND: Mac = [2, 0, 0, 0, 0, 11];
const NAT: Forwarding = Forwarding::Nat { port: 21050 };

fn address(host: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, host])
}

fn interface(index: u32) -> Interface {
    let low = u8::try_from(index).unwrap();
    Interface {
        index,
        name: format!("eth{index}"),
        mac: Some([2, 0, 0, 0, 1, low]),
        mtu: 1500,
        up: true,
        xdp: None,
    }
}

/// Interfaces 1 and 2.
fn interfaces() -> Interfaces {
    Interfaces::new([interface(1), interface(2)]).unwrap()
}

fn neighbour(interface: u32, host: u8) -> Neighbour {
    Neighbour {
        interface,
        address: address(host),
    }
}

/// The way over the neighbour `host` on an interface.
fn way(interface: u32, host: u8) -> Way {
    Way {
        neighbour: neighbour(interface, host),
        mtu: None,
    }
}

/// Backend .1 serves two services (targets 1 and 3), backend .2 one. All by `dsr`, on interface 1.
fn on_link() -> NextHops {
    let mut hops = NextHops::default();
    for (id, host) in [(1, 1), (2, 2), (3, 1)] {
        assert_eq!(hops.insert(id, address(host), Forwarding::Dsr), None);
        assert_eq!(hops.route(address(host), way(1, host), &interfaces()), []);
    }
    hops
}

/// Targets with their next hop's MAC address and egress.
fn summary(changes: &[Change]) -> Vec<(u16, Option<Mac>, u32)> {
    changes
        .iter()
        .map(|change| (change.id, change.target.next_hop(), change.target.egress()))
        .collect()
}

#[test]
fn an_answer_resolves_all_targets_of_the_backend() {
    let mut hops = on_link();
    assert_eq!(hops.unresolved().count(), 2);
    let changes = hops.neighbour(neighbour(1, 1), Some(FIRST), &interfaces());
    assert_eq!(summary(&changes), [(1, Some(FIRST), 1), (3, Some(FIRST), 1)]);
    let next_hop = NextHop {
        mac: FIRST,
        source: [2, 0, 0, 0, 1, 1],
        egress: 1,
        mtu: 1500,
    };
    assert_eq!(
        changes[0].target,
        Target::new(address(1).into(), Forwarding::Dsr, Some(next_hop))
    );
    assert_eq!(hops.of(1), Some(next_hop));
    assert_eq!(hops.unresolved().collect::<Vec<_>>(), [address(2)]);
}

#[test]
fn an_answer_that_says_nothing_new_writes_nothing() {
    let mut hops = on_link();
    hops.neighbour(neighbour(1, 1), Some(FIRST), &interfaces());
    assert_eq!(hops.neighbour(neighbour(1, 1), Some(FIRST), &interfaces()), []);
}

#[test]
fn a_backend_that_moves_to_another_card_is_followed() {
    let mut hops = on_link();
    hops.neighbour(neighbour(1, 2), Some(FIRST), &interfaces());
    let changes = hops.neighbour(neighbour(1, 2), Some(SECOND), &interfaces());
    assert_eq!(summary(&changes), [(2, Some(SECOND), 1)]);
}

#[test]
fn a_neighbour_that_fails_keeps_its_address() {
    let mut hops = on_link();
    hops.neighbour(neighbour(1, 2), Some(FIRST), &interfaces());
    assert_eq!(hops.neighbour(neighbour(1, 2), None, &interfaces()), []);
    assert_eq!(hops.mac(neighbour(1, 2)), Some(FIRST));
}

#[test]
fn strangers_and_namesakes_on_other_links_are_ignored() {
    let mut hops = on_link();
    assert_eq!(hops.neighbour(neighbour(1, 99), Some(FIRST), &interfaces()), []);
    assert_eq!(hops.neighbour(neighbour(2, 1), Some(FIRST), &interfaces()), []);
    assert_eq!(hops.mac(neighbour(2, 1)), None);
}

#[test]
fn a_target_that_comes_later_is_resolved_at_once_where_its_backend_is_known() {
    let mut hops = on_link();
    hops.neighbour(neighbour(1, 2), Some(FIRST), &interfaces());
    let change = hops.insert(4, address(2), Forwarding::Dsr);
    assert_eq!(summary(change.as_slice()), [(4, Some(FIRST), 1)]);
    assert_eq!(hops.insert(4, address(2), Forwarding::Dsr), None);
    hops.remove(2);
    let changes = hops.neighbour(neighbour(1, 2), Some(SECOND), &interfaces());
    assert_eq!(summary(&changes), [(4, Some(SECOND), 1)]);
    hops.remove(4);
    assert!(!hops.addresses().contains(&address(2)));
}

#[test]
fn a_target_has_one_way_of_forwarding() {
    let mut hops = on_link();
    hops.insert(2, address(2), NAT);
    hops.route(address(2), way(1, 2), &interfaces());
    let changes = hops.neighbour(neighbour(1, 2), Some(FIRST), &interfaces());
    assert_eq!(summary(&changes), [(2, Some(FIRST), 1)]);
}

#[test]
fn a_router_is_for_packets_that_are_addressed_to_the_backend() {
    let mut hops = on_link();
    hops.insert(4, address(1), NAT);
    hops.neighbour(neighbour(1, 1), Some(FIRST), &interfaces());
    assert_eq!(hops.route(address(1), way(2, 9), &interfaces()), []);
    assert!(hops.contains(neighbour(2, 9)) && hops.contains(neighbour(1, 1)));
    let changes = hops.neighbour(neighbour(2, 9), Some(SECOND), &interfaces());
    assert_eq!(summary(&changes), [(4, Some(SECOND), 2)]);
    let dsr = hops.of(1).unwrap();
    assert_eq!(
        (dsr.mac, dsr.egress),
        (FIRST, 1),
        "by `dsr` frames go on as before"
    );
}

#[test]
fn the_old_way_is_used_until_the_new_one_is_known() {
    let mut hops = NextHops::default();
    hops.insert(1, address(1), NAT);
    hops.route(address(1), way(1, 8), &interfaces());
    hops.neighbour(neighbour(1, 8), Some(FIRST), &interfaces());
    assert_eq!(hops.route(address(1), way(2, 9), &interfaces()), []);
    assert_eq!(hops.of(1).unwrap().mac, FIRST);
    let changes = hops.neighbour(neighbour(2, 9), Some(SECOND), &interfaces());
    assert_eq!(summary(&changes), [(1, Some(SECOND), 2)]);
    let changes = hops.route(address(1), way(1, 8), &interfaces());
    assert_eq!(changes, [], "the first router has not been followed meanwhile");
    let changes = hops.neighbour(neighbour(1, 8), Some(FIRST), &interfaces());
    assert_eq!(summary(&changes), [(1, Some(FIRST), 1)]);
}

#[test]
fn another_mtu_of_route_or_interface_is_written() {
    let mut hops = NextHops::default();
    let mut interfaces = interfaces();
    hops.insert(1, address(1), NAT);
    hops.route(address(1), way(1, 8), &interfaces);
    hops.neighbour(neighbour(1, 8), Some(FIRST), &interfaces);
    let narrow = Way {
        mtu: Some(1400),
        ..way(1, 8)
    };
    assert_eq!(hops.route(address(1), narrow, &interfaces)[0].target.mtu(), 1400);
    let narrower = Interface {
        mtu: 1300,
        ..interface(1)
    };
    interfaces.take_in("eth1", Some(narrower));
    assert_eq!(hops.interfaces(&interfaces)[0].target.mtu(), 1300);
    assert_eq!(hops.interfaces(&interfaces), []);
}

#[test]
fn without_its_interface_a_backend_is_unresolved_and_the_others_are_not() {
    let mut hops = on_link();
    let mut interfaces = interfaces();
    hops.insert(4, address(4), Forwarding::Dsr);
    hops.route(address(4), way(2, 4), &interfaces);
    hops.neighbour(neighbour(1, 2), Some(FIRST), &interfaces);
    hops.neighbour(neighbour(2, 4), Some(SECOND), &interfaces);
    interfaces.take_in("eth2", None);
    assert_eq!(summary(&hops.interfaces(&interfaces)), [(4, None, 0)]);

    // It comes back under another index, where the neighbour has to be asked for again.
    interfaces.take_in(
        "eth2",
        Some(Interface {
            index: 7,
            ..interface(2)
        }),
    );
    assert_eq!(hops.interfaces(&interfaces), []);
    assert_eq!(hops.route(address(4), way(7, 4), &interfaces), []);
    let changes = hops.neighbour(neighbour(7, 4), Some(SECOND), &interfaces);
    assert_eq!(summary(&changes), [(4, Some(SECOND), 7)]);
}

#[test]
fn another_mac_address_of_ours_rewrites_what_leaves_there() {
    let mut hops = on_link();
    let mut interfaces = interfaces();
    hops.neighbour(neighbour(1, 2), Some(FIRST), &interfaces);
    let mac = Some(SECOND);
    interfaces.take_in("eth1", Some(Interface { mac, ..interface(1) }));
    let changes = hops.interfaces(&interfaces);
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].target.addresses()[6..], SECOND);
}

/// What an earlier run has left: the entry of target 1, whose packets it sent to `FIRST` through an interface.
fn left(egress: u32) -> Target {
    let next_hop = NextHop {
        mac: FIRST,
        source: [2, 0, 0, 0, 1, 1],
        egress,
        mtu: 1500,
    };
    Target::new(address(1).into(), NAT, Some(next_hop))
}

#[test]
fn what_an_earlier_run_knew_is_used_and_corrected() {
    // 0: it had one interface only.
    for egress in [0, 1] {
        let mut hops = NextHops::default();
        hops.insert(1, address(1), NAT);
        hops.insert(2, address(2), NAT);
        hops.route(address(1), way(1, 8), &interfaces());
        hops.adopt(1, &left(egress), &interfaces());
        assert_eq!(hops.unresolved().collect::<Vec<_>>(), [address(2)]);
        assert_eq!(
            hops.entries(),
            [
                Change {
                    id: 1,
                    target: left(1)
                },
                Change {
                    id: 2,
                    target: Target::new(address(2).into(), NAT, None)
                }
            ]
        );
        assert_eq!(hops.neighbour(neighbour(1, 8), Some(FIRST), &interfaces()), []);
        let changes = hops.neighbour(neighbour(1, 8), Some(SECOND), &interfaces());
        assert_eq!(summary(&changes), [(1, Some(SECOND), 1)]);
    }
}

#[test]
fn what_an_earlier_run_knew_is_used_until_a_new_way_is_known() {
    let mut hops = NextHops::default();
    hops.insert(1, address(1), NAT);
    hops.route(address(1), way(2, 9), &interfaces());
    hops.adopt(1, &left(1), &interfaces());
    assert_eq!(hops.of(1).unwrap().egress, 1);
    let changes = hops.neighbour(neighbour(2, 9), Some(SECOND), &interfaces());
    assert_eq!(summary(&changes), [(1, Some(SECOND), 2)]);
}

#[test]
fn what_an_earlier_run_sent_through_an_interface_that_is_not_ours_is_unresolved() {
    let mut hops = NextHops::default();
    hops.insert(1, address(1), NAT);
    hops.adopt(1, &left(7), &interfaces());
    assert_eq!(summary(&hops.entries()), [(1, None, 0)]);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u8, bool),
    Remove(u16),
    Route(u8, u32, u8),
    Neighbour(u32, u8, Option<u8>),
    Interface(u32, bool, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u16..5, 1u8..4, any::<bool>()).prop_map(|(id, host, nat)| Step::Insert(id, host, nat)),
        (1u16..5).prop_map(Step::Remove),
        (1u8..4, 1u32..3, 1u8..6).prop_map(|(host, interface, hop)| Step::Route(host, interface, hop)),
        (1u32..3, 1u8..6, any::<Option<u8>>())
            .prop_map(|(interface, hop, mac)| Step::Neighbour(interface, hop, mac)),
        (1u32..3, any::<bool>(), any::<bool>())
            .prop_map(|(index, exists, up)| Step::Interface(index, exists, up)),
    ]
}

proptest! {
    /// Whoever writes the changes, one after the other, has in the table what the next hops say; and no target's frames
    /// leave through an interface that cannot send, or by `dsr` to anybody but the backend.
    #[test]
    fn the_changes_add_up(steps in proptest::collection::vec(step(), 0..60)) {
        let mut hops = NextHops::default();
        let mut interfaces = interfaces();
        let mut told = BTreeMap::new();
        let mut table = BTreeMap::<u16, (IpAddr, Forwarding, Target)>::new();
        for step in steps {
            let changes = match step {
                Step::Insert(id, host, nat) => {
                    let (address, forwarding) = (address(host), if nat { NAT } else { Forwarding::Dsr });
                    if table.get(&id).map(|(address, forwarding, _)| (*address, *forwarding)) != Some((address, forwarding)) {
                        let unresolved = Target::new(address.into(), forwarding, None);
                        table.insert(id, (address, forwarding, unresolved));
                    }
                    hops.insert(id, address, forwarding).into_iter().collect()
                }
                Step::Remove(id) => {
                    table.remove(&id);
                    hops.remove(id);
                    Vec::new()
                }
                Step::Route(host, interface, hop) => hops.route(address(host), way(interface, hop), &interfaces),
                Step::Neighbour(interface, hop, mac) => {
                    let mac = mac.map(|low| [2, 0, 0, 0, 0, low]);
                    if hops.contains(neighbour(interface, hop)) {
                        told.extend(mac.map(|mac| (neighbour(interface, hop), mac)));
                    }
                    hops.neighbour(neighbour(interface, hop), mac, &interfaces)
                }
                Step::Interface(index, exists, up) => {
                    let now = Interface { up, ..interface(index) };
                    interfaces.take_in(&format!("eth{index}"), exists.then_some(now));
                    hops.interfaces(&interfaces)
                }
            };
            for change in changes {
                let (_, _, target) = table.get_mut(&change.id).expect("a change of a target that there is");
                *target = change.target;
            }
            for (id, (address, forwarding, target)) in &table {
                let next_hop = hops.of(*id);
                prop_assert_eq!(*target, Target::new((*address).into(), *forwarding, next_hop));
                if let Some(next_hop) = next_hop {
                    prop_assert!(interfaces.at(next_hop.egress).is_some_and(|interface| interface.up));
                    if *forwarding == Forwarding::Dsr {
                        let itself = Neighbour { interface: next_hop.egress, address: *address };
                        prop_assert_eq!(told.get(&itself), Some(&next_hop.mac));
                    }
                }
            }
        }
    }
}
