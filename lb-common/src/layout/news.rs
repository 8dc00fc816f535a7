//! What the program tells the controller while that listens: whose record has changed.

use super::{ClientKey, FlowKey};
use crate::address::Address;

/// How many bytes of news the program keeps for the controller: 8,192 of them, with what the kernel writes before each.
pub const NEWS_BYTES: u32 = 262_144;

/// Whose record has changed, never how: whoever wants to know looks it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Changed {
    /// The established record of this flow has begun, is closing, or goes on after all; or its way back leads elsewhere.
    Flow(FlowKey),
    /// This client is at home on another target than was noted before, or something was noted of it for the first time.
    Client(ClientKey),
}

/// [`Changed`] as it stands in the ring buffer.
///
/// Aligned to 8 bytes, as entries are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct News {
    /// The client's address.
    client: Address,
    /// The client's port; 0 if all of its flows are meant.
    client_port: u16,
    /// The service's id.
    service: u16,
    /// Whether it is news of a flow or of a client.
    kind: u32,
}

impl News {
    const FLOW: u32 = 1;
    const CLIENT: u32 = 2;

    /// News of a flow.
    #[inline(always)]
    pub const fn of_flow(key: &FlowKey) -> Self {
        Self {
            client: key.client(),
            client_port: key.client_port(),
            service: key.service(),
            kind: Self::FLOW,
        }
    }

    /// News of a client.
    #[inline(always)]
    pub const fn of_client(key: &ClientKey) -> Self {
        Self {
            client: key.client(),
            client_port: 0,
            service: key.service(),
            kind: Self::CLIENT,
        }
    }

    /// Of what; `None` if no program of this version has written it.
    pub const fn changed(&self) -> Option<Changed> {
        match self.kind {
            Self::FLOW => {
                let key = FlowKey::new(self.client, self.client_port, self.service);
                Some(Changed::Flow(key))
            }
            Self::CLIENT => Some(Changed::Client(ClientKey::new(self.client, self.service))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_say_what_they_were_made_of() {
        let address = Address::v4([10, 0, 0, 1]);
        let flow = FlowKey::new(address, 40_000, 7);
        assert_eq!(News::of_flow(&flow).changed(), Some(Changed::Flow(flow)));
        let client = ClientKey::new(address, 7);
        assert_eq!(News::of_client(&client).changed(), Some(Changed::Client(client)));
        let nothing = News {
            kind: 0,
            ..News::of_flow(&flow)
        };
        assert_eq!(nothing.changed(), None);
    }
}
