//! The keys whose value is one of a few words.

use std::fmt;

use crate::core::health::Failback;
use crate::core::health::probe::Authentication;

/// A key whose value is one of a few words.
pub(super) trait Choice: Copy + 'static {
    /// All values, in the order in which messages list them.
    const ALL: &'static [Self];

    /// The word for this value in the configuration.
    fn word(self) -> &'static str;
}

/// Defines an enum from the words that stand for its values.
macro_rules! choice {
    (
        $(#[$doc:meta])*
        pub enum $name:ident { $( $(#[$variant_doc:meta])* $variant:ident = $word:literal, )+ }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[$variant_doc])* $variant, )+ }

        impl $name {
            /// The word for this value, as the configuration and the operator API spell it.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }
        }

        impl Choice for $name {
            const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            fn word(self) -> &'static str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

choice! {
    /// How the XDP program is attached to an interface.
    pub enum XdpModeChoice {
        /// In the driver where the driver can, else in the generic path.
        Auto = "auto",
        /// In the driver, or not at all.
        Native = "native",
        /// In the kernel's generic path, which every interface has.
        Generic = "generic",
    }
}

choice! {
    /// How packets reach the backends of a service.
    pub enum Forward {
        /// Direct server return: only the Ethernet header is rewritten; the backend holds the VIP and answers
        /// the client.
        Dsr = "dsr",
        /// Packets are wrapped in IP; the backend unwraps them and answers the client.
        Ipip = "ipip",
        /// Full network address translation, both directions pass the balancer.
        Nat = "nat",
    }
}

choice! {
    /// The checksum of VRRP over IPv4.
    pub enum VrrpChecksum {
        /// Of the message alone.
        Rfc9568 = "rfc9568",
        /// With a pseudo-header: keepalived's.
        Rfc5798 = "rfc5798",
    }
}

choice! {
    /// Whether the connections of one client stay together.
    pub enum Affinity {
        /// Every connection is placed by itself.
        None = "none",
        /// A client keeps its backend across connections.
        Client = "client",
    }
}

choice! {
    /// How new connections are shared among the backends of a service.
    pub enum Balance {
        /// By the flow's hash, in proportion to the configured weights.
        Hash = "hash",
        /// By the flow's hash, with weights that follow the backends' load.
        Load = "load",
        /// To the backend with the fewest live connections for its weight.
        LeastConnections = "least-connections",
    }
}

choice! {
    /// What a client gets when a service has no backend left for it.
    pub enum NoBackend {
        /// A TCP reset, so that it fails at once.
        Reset = "reset",
        /// Nothing: its packets are dropped under a named counter.
        Drop = "drop",
    }
}

choice! {
    /// What becomes of the flows of a backend that is down.
    pub enum OnDown {
        /// Another backend gets them, whose kernel resets them: clients notice at once.
        Reset = "reset",
        /// They stay until they end.
        Keep = "keep",
    }
}

choice! {
    /// How the health of a service's backends is found out.
    pub enum CheckKind {
        /// Not at all: every backend counts as up.
        None = "none",
        /// A TCP connection is accepted.
        Tcp = "tcp",
        /// An HTTP request is answered well.
        Http = "http",
        /// An HTTPS request is answered well.
        Https = "https",
        /// A HiveServer2 probe is answered.
        Hs2 = "hs2",
        /// Impala's web page and a HiveServer2 probe, with load figures.
        Impala = "impala",
        /// A catalogd or statestored says that it is the active one of its pair.
        ActiveStatus = "active-status",
    }
}

choice! {
    /// Where backends are read from, besides the file.
    pub enum DiscoveryKind {
        /// The web pages of Impala's coordinators.
        Impala = "impala",
    }
}

impl Choice for Failback {
    const ALL: &'static [Self] = &[Self::Auto, Self::Manual];

    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
        }
    }
}

impl Choice for Authentication {
    const ALL: &'static [Self] = &[Self::None, Self::Sasl];

    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sasl => "sasl",
        }
    }
}
