//! The kernel's network configuration, over netlink: interfaces (those of virtual routers too), addresses, routes and neighbours.

mod addresses;
mod error;
mod interfaces;
mod neighbours;
mod routes;
mod virtual_interfaces;
mod watch;

pub use addresses::{Address, OWNER};
pub use error::NetlinkError;
pub use interfaces::Link;
pub use neighbours::{Knowledge, Neighbour};
pub use routes::Route;
pub use watch::{Event, Watch};

/// A connection for questions and changes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Connects to the network namespace of the calling thread. Must be called within a tokio runtime, which carries
    /// the connection until the last clone is dropped.
    pub fn connect() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Connect)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }
}
