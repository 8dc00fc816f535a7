//! The set of our interfaces: those that the configuration names, as the kernel shows them now.

use lb_common::layout::NextHop;

use super::interface::{Interface, Mac, Mode};

/// Our interfaces, in the order of the configuration.
#[derive(Clone, Debug)]
pub struct Interfaces {
    ours: Vec<Ours>,
}

#[derive(Clone, Debug)]
struct Ours {
    /// As it was seen last.
    seen: Interface,
    /// Whether it exists.
    exists: bool,
    mac: Mac,
}

/// What has become of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was deleted, or has another name now.
    Gone,
    /// One with its name has appeared, which carries nothing of ours yet.
    Back,
    /// It was set up.
    Up,
    /// It was set down.
    Down,
    /// It carries no XDP program any more.
    ProgramLost,
    /// It has another MAC address.
    Mac(Mac),
    /// It has another MTU, in bytes.
    Mtu(u32),
}

/// An interface cannot be ours: it has no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interface {name} has no MAC address")]
pub struct NotEthernet {
    /// Its name.
    pub name: String,
}

impl Interfaces {
    /// A set of interfaces that all exist.
    pub fn new(found: impl IntoIterator<Item = Interface>) -> Result<Self, NotEthernet> {
        let ours = found.into_iter().map(|seen| match seen.mac {
            Some(mac) => Ok(Ours {
                seen,
                exists: true,
                mac,
            }),
            None => Err(NotEthernet { name: seen.name }),
        });
        Ok(Self {
            ours: ours.collect::<Result<_, _>>()?,
        })
    }

    /// Takes in what the kernel says about the interface of ours that has, or had, this name. Returns what is new.
    pub fn take_in(&mut self, name: &str, now: Option<Interface>) -> Vec<Event> {
        let Some(ours) = self.ours.iter_mut().find(|ours| ours.seen.name == name) else {
            return Vec::new();
        };
        let mut events = Vec::new();
        let is_same = now.as_ref().is_some_and(|now| now.index == ours.seen.index);
        if ours.exists && !is_same {
            ours.exists = false;
            events.push(Event::Gone);
        }
        let Some(now) = now else { return events };
        let before = std::mem::replace(&mut ours.seen, now);
        let now = &ours.seen;
        if !ours.exists {
            ours.exists = true;
            events.push(Event::Back);
        } else if before.xdp.is_some() && now.xdp.is_none() {
            events.push(Event::ProgramLost);
        }
        if before.up != now.up {
            events.push(if now.up { Event::Up } else { Event::Down });
        }
        if before.mtu != now.mtu {
            events.push(Event::Mtu(now.mtu));
        }
        // Ethernet interfaces do not lose their MAC address while they exist.
        if let Some(mac) = now.mac.filter(|mac| *mac != ours.mac) {
            ours.mac = mac;
            events.push(Event::Mac(mac));
        }
        events
    }

    /// The names of all of them, in the order of the configuration.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.ours.iter().map(|ours| ours.seen.name.as_str())
    }

    /// All of them with their names, in the order of the configuration; `None` for those that do not exist.
    pub fn all(&self) -> impl Iterator<Item = (&str, Option<&Interface>)> {
        let existing = |ours: &'_ Ours| ours.exists;
        self.ours
            .iter()
            .map(move |ours| (ours.seen.name.as_str(), existing(ours).then_some(&ours.seen)))
    }

    /// Those that exist, in the order of the configuration.
    pub fn existing(&self) -> impl Iterator<Item = &Interface> {
        self.all().filter_map(|(_, interface)| interface)
    }

    /// The one with this name, if it exists.
    pub fn named(&self, name: &str) -> Option<&Interface> {
        self.existing().find(|interface| interface.name == name)
    }

    /// The one with this index, if it exists.
    pub fn at(&self, index: u32) -> Option<&Interface> {
        self.existing().find(|interface| interface.index == index)
    }

    /// The one that carries the VIPs, if it exists.
    pub fn first(&self) -> Option<&Interface> {
        let first = self.ours.first()?;
        first.exists.then_some(&first.seen)
    }

    /// The MAC addresses under which we receive.
    pub fn macs(&self) -> impl Iterator<Item = Mac> {
        self.ours.iter().map(|ours| ours.mac)
    }

    /// In which mode those of them that carry a program do so; `None` if none does, or not all in the same one.
    pub fn mode(&self) -> Option<Mode> {
        let mut modes = self
            .existing()
            .filter_map(|interface| interface.xdp.as_ref())
            .map(|attached| attached.mode);
        let first = modes.next()??;
        modes.all(|mode| mode == Some(first)).then_some(first)
    }

    /// The way out through the interface with this index to the neighbour with this MAC address, for IP packets of up to
    /// `mtu` bytes. `None` if nothing can leave there: it does not exist, or it is down.
    ///
    /// A single interface is named by 0 ([`NextHop::egress`]): packets leave where they came in, so it must be up.
    pub fn way_out(&self, index: u32, mac: Mac, mtu: Option<u32>) -> Option<NextHop> {
        let ours = self
            .ours
            .iter()
            .find(|ours| ours.exists && ours.seen.index == index)?;
        let is_only_one = self.ours.len() == 1;
        if !is_only_one && !ours.seen.up {
            return None;
        }
        let mtu = mtu.map_or(ours.seen.mtu, |mtu| mtu.min(ours.seen.mtu));
        Some(NextHop {
            mac,
            source: ours.mac,
            egress: if is_only_one { 0 } else { index },
            // No IP packet is longer, unless it is an IPv6 jumbogram.
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::interface::{XdpAttached, testing::interface};

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    fn two() -> Interfaces {
        Interfaces::new([interface(1), interface(2)]).unwrap()
    }

    #[test]
    fn what_is_as_before_is_no_event() {
        let mut interfaces = two();
        assert_eq!(interfaces.take_in("eth1", Some(interface(1))), []);
        assert_eq!(interfaces.take_in("eth9", Some(interface(9))), [], "a stranger");
    }

    #[test]
    fn every_change_is_an_event() {
        let mut interfaces = two();
        let changed = Interface {
            mac: Some(MAC),
            mtu: 9000,
            up: false,
            xdp: None,
            ..interface(1)
        };
        assert_eq!(
            interfaces.take_in("eth1", Some(changed.clone())),
            [Event::ProgramLost, Event::Down, Event::Mtu(9000), Event::Mac(MAC)]
        );
        assert_eq!(interfaces.take_in("eth1", Some(changed)), []);
        assert_eq!(interfaces.macs().collect::<Vec<_>>(), [MAC, [2, 0, 0, 0, 0, 1]]);
    }

    #[test]
    fn one_that_goes_and_comes_back_is_another_one() {
        let mut interfaces = two();
        assert_eq!(interfaces.take_in("eth1", None), [Event::Gone]);
        assert_eq!(interfaces.take_in("eth1", None), []);
        assert_eq!((interfaces.first(), interfaces.at(1)), (None, None));
        assert_eq!(interfaces.names().count(), 2, "it is still ours");
        let back = Interface {
            index: 5,
            xdp: None,
            ..interface(1)
        };
        assert_eq!(interfaces.take_in("eth1", Some(back.clone())), [Event::Back]);
        assert_eq!((interfaces.first(), interfaces.at(1)), (Some(&back), None));

        let replaced = Interface { index: 6, ..back };
        assert_eq!(
            interfaces.take_in("eth1", Some(replaced)),
            [Event::Gone, Event::Back],
            "both between two looks"
        );
    }

    #[test]
    fn packets_leave_only_through_what_exists_and_is_up() {
        let mut interfaces = two();
        let way = interfaces.way_out(2, MAC, None).unwrap();
        assert_eq!((way.egress, way.mtu, way.mac), (2, 1500, MAC));
        assert_eq!(interfaces.way_out(3, MAC, None), None);
        interfaces.take_in(
            "eth2",
            Some(Interface {
                up: false,
                ..interface(2)
            }),
        );
        assert_eq!(interfaces.way_out(2, MAC, None), None);
        interfaces.take_in("eth1", None);
        assert_eq!(interfaces.way_out(1, MAC, None), None);
    }

    #[test]
    fn a_single_interface_needs_no_index() {
        let down = Interface {
            up: false,
            ..interface(1)
        };
        let interfaces = Interfaces::new([down]).unwrap();
        assert_eq!(interfaces.way_out(1, MAC, None).unwrap().egress, 0);
    }

    #[test]
    fn the_smaller_mtu_counts() {
        let huge = Interface {
            mtu: 65_536,
            ..interface(1)
        };
        let interfaces = Interfaces::new([huge, interface(2)]).unwrap();
        let mtu = |index, route| interfaces.way_out(index, MAC, route).unwrap().mtu;
        assert_eq!(mtu(2, Some(1400)), 1400);
        assert_eq!(mtu(2, Some(9000)), 1500);
        assert_eq!(mtu(1, None), u16::MAX);
    }

    #[test]
    fn one_mode_or_none() {
        let mut interfaces = two();
        assert_eq!(interfaces.mode(), Some(Mode::Native));
        interfaces.take_in(
            "eth1",
            Some(Interface {
                xdp: None,
                ..interface(1)
            }),
        );
        assert_eq!(
            interfaces.mode(),
            Some(Mode::Native),
            "of those that have a program"
        );
        let generic = XdpAttached {
            mode: Some(Mode::Generic),
            program: None,
        };
        interfaces.take_in(
            "eth1",
            Some(Interface {
                xdp: Some(generic),
                ..interface(1)
            }),
        );
        assert_eq!(interfaces.mode(), None);
    }

    #[test]
    fn what_has_no_mac_address_is_refused() {
        let odd = Interface {
            mac: None,
            ..interface(1)
        };
        assert_eq!(Interfaces::new([odd]).unwrap_err().name, "eth1");
    }
}
