//! The way back of translated connections (`nat`).

use super::{FlowKey, target::address_words};
use crate::address::Address;

/// Names a translated connection as its backend sees it: what an answer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(8))]
pub struct ReturnKey {
    /// The backend's own address.
    backend: Address,
    /// The VIP, which the backend takes for its client.
    vip: Address,
    /// The backend's port.
    backend_port: u16,
    /// The VIP's port that stands for the client's.
    port: u16,
    reserved: u32,
}

impl ReturnKey {
    /// The key of answers from `backend` to `vip`. Ports are in host byte order.
    #[inline(always)]
    pub const fn new(backend: Address, backend_port: u16, vip: Address, port: u16) -> Self {
        Self {
            backend,
            vip,
            backend_port,
            port,
            reserved: 0,
        }
    }

    /// The VIP's port that stands for the client's, host byte order.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// To whom an answer goes. Ports are in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Return {
    /// The client's address.
    pub client: Address,
    /// The client's port.
    pub client_port: u16,
    /// The service's port, which the client takes for the sender's.
    pub service_port: u16,
    /// The service's id.
    pub service: u16,
    /// The target's id.
    pub target: u16,
    /// Destination and source MAC address towards the client, 12 bytes as on the wire, in words: what the client's own frames
    /// had, reversed.
    pub addresses: [u32; 3],
    /// The index of the interface on which the client's frames came in. 0 stands for the one that an answer came in on.
    pub egress: u32,
}

impl Return {
    /// The way to a flow's client from a port of its service. `macs` are the client's and that of our interface, whose index is `egress`.
    pub fn new(flow: &FlowKey, service_port: u16, target: u16, macs: [[u8; 6]; 2], egress: u32) -> Self {
        let [client, ours] = macs;
        Self {
            client: flow.client(),
            client_port: flow.client_port(),
            service_port,
            service: flow.service(),
            target,
            addresses: address_words(client, ours),
            egress,
        }
    }

    /// The key of the client's flow, under which its record is.
    #[inline(always)]
    pub const fn flow(&self) -> FlowKey {
        FlowKey::new(self.client, self.client_port, self.service)
    }

    /// The MAC address of the client, or of the router before it.
    pub const fn client_mac(&self) -> [u8; 6] {
        let (first, last) = (self.addresses[0].to_ne_bytes(), self.addresses[1].to_ne_bytes());
        [first[0], first[1], first[2], first[3], last[0], last[1]]
    }
}
