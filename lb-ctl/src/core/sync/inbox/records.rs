//! Flows and clients, as the owner of their service tells of them, or somebody who has seen them begin.

use std::net::IpAddr;

use lb_common::{
    address::Address,
    layout::{Affinity, ClientKey, FlowKey, FlowRecord, NO_TARGET, Service},
    slot_rule::closing_since,
};

use super::{
    super::{
        apply_error::ApplyError,
        mirror::{Added, Mirror},
        told::{MOMENT, Told},
        wire::{Flow, Home, WayToClient},
    },
    Followed, Inbox,
};
use crate::core::census::{records_every_flow, slot_of};

/// How much counts what is told of a flow or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authority {
    /// The owner tells it: so it is.
    Owner,
    /// The former owner tells it, while the service [arrives](Inbox::arrive): nothing is replaced or deleted for it.
    Former,
    /// It has begun with the peer, whoever owns the service: the same, and we tell it on.
    Visited,
}

impl Inbox {
    /// Our own entry of a service that has been introduced, if what is told of its flows and clients counts, and how much it does.
    ///
    /// What begins with a peer that does not own the service is taken in whoever owns it. So is what the peer tells as its owner where we own it: it has
    /// lost it and not noticed yet, or each of the two takes itself for the master.
    fn told_of<M: Mirror>(
        &mut self,
        id: u16,
        mirror: &M,
    ) -> Result<Option<(Service, Authority)>, ApplyError<M::Error>> {
        let arrives = self.arrives(id)?;
        let Followed { key, told } = self.service(id)?;
        let is_unowned = matches!(told, Told::Unowned);
        if is_unowned || mirror.followed(key).is_none() {
            let shared = mirror.shared(key);
            return Ok(shared.map(|entry| (entry, Authority::Visited)));
        }
        let authority = if arrives {
            Authority::Former
        } else {
            Authority::Owner
        };
        let followed = self.followed(id, mirror)?;
        Ok(followed.map(|entry| (entry, authority)))
    }

    /// How a flow is, or that it has no record.
    pub(super) fn take_flow<M: Mirror>(
        &mut self,
        service: u16,
        client: IpAddr,
        port: u16,
        flow: Option<Flow>,
        mirror: &mut M,
    ) -> Result<(), ApplyError<M::Error>> {
        let Some((entry, authority)) = self.told_of(service, mirror)? else {
            return Ok(());
        };
        let key = FlowKey::new(Address::from(client), port, entry.id);
        if let Some(unnamed) = self.service(service)?.told.unnamed() {
            unnamed.name_flow(&key);
        }
        let Some(flow) = flow else {
            // It may have begun anew here. If not, it is over when it has been idle for long enough.
            return match authority {
                Authority::Owner => Ok(mirror.remove_flow(&key)?),
                Authority::Former | Authority::Visited => Ok(()),
            };
        };
        let slot = entry
            .first_slot
            .saturating_add(slot_of(key.client(), port, &entry));
        if authority == Authority::Visited
            && !(decides(&entry, slot, mirror)? && self.is_news(service, &flow)?)
        {
            return Ok(());
        }
        let now = mirror.now();
        let last_seen = now.wrapping_sub(flow.idle);
        let added = match self.target(flow.backend, service, &entry, mirror)? {
            None | Some(NO_TARGET) => Added::NoRoom,
            Some(target) => {
                let record = FlowRecord {
                    target,
                    closing: if flow.closing { closing_since(last_seen) } else { 0 },
                    last_seen,
                    port: flow.port,
                    reserved: [0; 3],
                };
                let way = flow.way.map(|way| WayToClient {
                    interface: way.interface.and_then(|theirs| self.places.of(theirs)),
                    ..way
                });
                match authority {
                    Authority::Owner if mirror.put_flow(&key, record, way)? => Added::Present,
                    Authority::Owner => Added::NoRoom,
                    Authority::Former | Authority::Visited => mirror.add_flow(&key, record, way)?,
                }
            }
        };
        match (added, authority) {
            // Should the peer be told by us, it is to be told of this too: it begins anew with what we tell.
            (Added::New, Authority::Visited) => mirror.note_flow(&key, slot),
            // It does not follow the peer: another flow that it has placed itself may have the port.
            (Added::NoRoom, Authority::Visited) | (Added::New | Added::Present, _) => {}
            (Added::NoRoom, Authority::Former) => self.lost += 1,
            (Added::NoRoom, Authority::Owner) => {
                self.lost += 1;
                // What is there is of an earlier flow.
                mirror.remove_flow(&key)?;
            }
        }
        Ok(())
    }

    /// Where a client is at home, or that nothing is noted of it.
    pub(super) fn take_client<M: Mirror>(
        &mut self,
        service: u16,
        client: IpAddr,
        home: Option<Home>,
        mirror: &mut M,
    ) -> Result<(), ApplyError<M::Error>> {
        let Some((entry, authority)) = self.told_of(service, mirror)? else {
            return Ok(());
        };
        let address = Address::from(client);
        let key = ClientKey::new(address, entry.id);
        if let Some(unnamed) = self.service(service)?.told.unnamed() {
            unnamed.clients.remove(&key);
        }
        let Some(home) = home else {
            return match authority {
                Authority::Owner => Ok(mirror.remove_client(&key)?),
                Authority::Former | Authority::Visited => Ok(()),
            };
        };
        // Its port is no part of the choice.
        let slot = entry.first_slot.saturating_add(slot_of(address, 0, &entry));
        if authority == Authority::Visited && !decides(&entry, slot, mirror)? {
            return Ok(());
        }
        if let Some(target) = self.target(home.backend, service, &entry, mirror)?
            && target != NO_TARGET
        {
            let noted = Affinity {
                target,
                reserved: 0,
                last_seen: mirror.now().wrapping_sub(home.idle),
            };
            match authority {
                Authority::Owner => mirror.put_client(&key, noted)?,
                Authority::Former | Authority::Visited => {
                    let is_new = mirror.add_client(&key, noted)?;
                    if is_new && authority == Authority::Visited {
                        mirror.note_client(&key);
                    }
                }
            }
        } else {
            self.lost += 1;
            if authority == Authority::Owner {
                // What is noted is an earlier home.
                mirror.remove_client(&key)?;
            }
        }
        Ok(())
    }

    /// Whether a flow of a service that the peer need not own has begun or been used a moment ago. Who takes itself for the owner tells of all
    /// that it knows, and most of that may be over.
    fn is_news<E>(&mut self, service: u16, flow: &Flow) -> Result<bool, ApplyError<E>> {
        Ok(matches!(self.service(service)?.told, Told::Unowned) || flow.idle <= MOMENT)
    }
}

/// Whether a record of a flow of this slot would count: one in a slot that is not tracked does not, and would contradict it later.
fn decides<M: Mirror>(service: &Service, slot: u32, mirror: &M) -> Result<bool, M::Error> {
    Ok(records_every_flow(service) || mirror.slot(slot)?.tracked)
}
