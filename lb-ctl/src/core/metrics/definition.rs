//! Every metric, in one place: its name, kind, labels, and what it means. `docs/metrics.md` is this table.

use std::fmt;

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until what it counts begins anew.
    Counter,
    /// It is what it is now.
    Gauge,
    /// How many measurements were at most so large.
    Histogram,
}

impl Kind {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Makes the enum of all metrics.
macro_rules! metrics {
    ($($variant:ident = $kind:ident $name:literal [$($label:literal),*] $meaning:literal;)*) => {
        /// A metric, or what Prometheus calls a family of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Metric {
            $(#[doc = $meaning] $variant,)*
        }

        impl Metric {
            /// All of them, in the order in which they are written.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The kind.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// The names of the labels.
            pub const fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($label),*],)* }
            }

            /// One sentence for an operator.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

metrics! {
    BuildInfo = Gauge "lb_build_info" ["node", "version"]
        "Always 1: the labels have the balancer's name and the version of its daemon.";
    StartTime = Gauge "lb_start_time_seconds" []
        "When the daemon started, in seconds since 1970.";
    Healthy = Gauge "lb_healthy" []
        "1 while /healthz answers with 200, else 0.";
    ControllerErrors = Counter "lb_controller_errors_total" []
        "Pieces of the controller's work that failed; the log says which. Packets flow on, and the work is tried again.";
    Reloads = Counter "lb_reloads_total" ["result"]
        "Reloads of the configuration since the daemon started: accepted, refused (the file is wrong) or failed.";
    ReloadSuccessful = Gauge "lb_last_reload_successful" []
        "1 if the daemon follows the configuration file as it was when a reload was last asked for, else 0.";
    DecisionsKept = Gauge "lb_decisions_kept" []
        "1 if what operators have decided about backends would survive a restart of the daemon, else 0.";
    InterfaceMode = Gauge "lb_interface_mode" ["interface", "mode"]
        "1 for how the XDP program is attached to an interface, else 0; mode none: somebody has detached it, absent: there is no such interface.";
    VrrpState = Gauge "lb_vrrp_state" ["vrrp_instance", "state"]
        "1 for the state that a VRRP instance has, 0 for the others: init, backup, master, fault.";
    VrrpStateAge = Gauge "lb_vrrp_state_age_seconds" ["vrrp_instance"]
        "For how long a VRRP instance's state has been what it is.";
    VrrpPriority = Gauge "lb_vrrp_priority" ["vrrp_instance"]
        "The priority of a VRRP instance, lowered by what is missing.";
    VrrpConfiguredPriority = Gauge "lb_vrrp_configured_priority" ["vrrp_instance"]
        "The configured priority of a VRRP instance.";
    VrrpMasterPriority = Gauge "lb_vrrp_master_priority" ["vrrp_instance"]
        "The priority of the master that a VRRP instance hears, or its own while it is master; absent if it knows of none.";
    VrrpInterval = Gauge "lb_vrrp_advertisement_interval_seconds" ["vrrp_instance"]
        "How often the master of a VRRP instance advertises.";
    VrrpMasterDown = Gauge "lb_vrrp_master_down_interval_seconds" ["vrrp_instance"]
        "After how long a silence of the master a VRRP instance takes over.";
    VrrpHandedOver = Gauge "lb_vrrp_handed_over" ["vrrp_instance"]
        "1 while a VRRP instance leaves any master alone because an operator has handed it over, else 0.";
    VrrpTransitions = Counter "lb_vrrp_transitions_total" ["vrrp_instance", "state"]
        "How often a VRRP instance has come into a state since the daemon started, or a reload began it anew.";
    VrrpRejected = Counter "lb_vrrp_rejected_packets_total" ["vrrp_instance", "reason"]
        "VRRP packets that did not count as advertisements, by reason.";
    VrrpMissing = Gauge "lb_vrrp_missing" ["vrrp_instance"]
        "How much of what a VRRP instance tracks is missing.";
    VrrpNotifications = Counter "lb_vrrp_notifications_total" ["vrrp_instance", "result"]
        "How often notify of a VRRP instance was to be told of a change: succeeded, failed, timeout, superseded (the state lasted less long than notify takes).";
    PeerConnected = Gauge "lb_peer_connected" []
        "1 while the other balancer is connected, else 0; absent without a peer.";
    PeerLag = Gauge "lb_peer_lag_seconds" []
        "For how long the other balancer has lacked something that it was told; 0 while it lacks nothing.";
    PeerNotTakenOver = Gauge "lb_peer_not_taken_over" []
        "Slots and flows that the other balancer has told of and for which there was no room here, since it connected.";
    DroppedPackets = Counter "lb_dropped_packets_total" ["reason"]
        "Packets that the XDP program has dropped, by reason.";
    ExceptionalPackets = Counter "lb_exceptional_packets_total" ["event"]
        "Packets that the XDP program has neither dropped nor simply forwarded to a backend, by what happened to them.";
    TableEntries = Gauge "lb_table_entries" ["table"]
        "Used entries of one of the kernel's tables; of the tables of flows as counted by the last pass over them, every 10 seconds or sooner.";
    TableEntriesMax = Gauge "lb_table_entries_max" ["table"]
        "How many entries one of the kernel's tables has room for.";
    RecordsShort = Gauge "lb_records_short" []
        "1 while the table of flows is so full that new connections in tracked slots do without a record where they can, else 0.";
    ServiceInfo = Gauge "lb_service_info" ["service", "vip", "port", "forward"]
        "Always 1: the labels have a service's virtual address and port, and how packets reach its backends.";
    ServiceActiveTier = Gauge "lb_service_active_tier" ["service"]
        "The tier that serves.";
    ServiceGuardActive = Gauge "lb_service_guard_active" ["service"]
        "1 while the guard against mass removal keeps backends in use, else 0.";
    ServiceRole = Gauge "lb_service_role" ["service", "role"]
        "1 for the part that this balancer has in a service, 0 for the others: owner, arriving, following, behind, alone; absent without a peer.";
    ServiceSlots = Gauge "lb_service_slots" ["service"]
        "How many slots of a service give their new flows to a backend: all of them, or none when no backend is left.";
    ServiceTrackedSlots = Gauge "lb_service_tracked_slots" ["service"]
        "How many of a service's slots consult the table of flows.";
    CheckDuration = Histogram "lb_check_duration_seconds" ["service"]
        "How long the health checks of a service's backends took.";
    DiscoverySeedSuccess = Gauge "lb_discovery_seed_success" ["service", "seed"]
        "1 if the last reading of a seed's page gave one, else 0; absent before the first.";
    DiscoveryPageAge = Gauge "lb_discovery_seed_page_age_seconds" ["service", "seed"]
        "How long ago a seed last gave its page; absent if it never has.";
    DiscoveryRefused = Gauge "lb_discovery_refused_backends" ["service"]
        "How many coordinators are listed but cannot be backends; only with discovery.";
    BackendInfo = Gauge "lb_backend_info" ["service", "backend", "address", "port"]
        "Always 1: the labels have a backend's own address and port.";
    BackendWeight = Gauge "lb_backend_weight" ["service", "backend"]
        "The weight of a backend, by the operator's word or else as configured: its share of new flows, relative to the others.";
    BackendConfiguredWeight = Gauge "lb_backend_configured_weight" ["service", "backend"]
        "The configured weight of a backend, whatever operators have decided.";
    BackendTier = Gauge "lb_backend_tier" ["service", "backend"]
        "The configured tier of a backend.";
    BackendHealth = Gauge "lb_backend_health" ["service", "backend", "health"]
        "1 for the health that a backend has, 0 for the others: checking, up, saturated, quiescing, down.";
    BackendHealthAge = Gauge "lb_backend_health_age_seconds" ["service", "backend"]
        "For how long a backend's health has been what it is; absent if it is not checked.";
    BackendHealthChanges = Counter "lb_backend_health_changes_total" ["service", "backend", "health"]
        "Changes of a backend's health since the daemon started, by what it became, checks and pages taken together.";
    BackendAdmin = Gauge "lb_backend_admin" ["service", "backend", "admin"]
        "1 for what operators have decided about a backend, 0 for the others: enabled, draining, disabled.";
    BackendSoftDrain = Gauge "lb_backend_drains_softly" ["service", "backend"]
        "1 while a backend drains but clients that are at home there may still open connections, else 0.";
    BackendDrainDeadline = Gauge "lb_backend_drain_deadline_seconds" ["service", "backend"]
        "In how many seconds the flows that are left on a draining backend will be reset; absent without a deadline.";
    BackendSlowStart = Gauge "lb_backend_slow_start_ratio" ["service", "backend"]
        "The part of a backend's weight that counts: 1, unless it starts slowly.";
    BackendLoad = Gauge "lb_backend_load_connections" ["service", "backend"]
        "How busy a backend is, smoothed, in connections, a query counting four; only with balance = \"load\", absent while not known.";
    BackendLoadWeight = Gauge "lb_backend_load_weight_ratio" ["service", "backend"]
        "How much of its configured weight a backend has because of its load, 1 for all of it; only with balance = \"load\".";
    BackendSlots = Gauge "lb_backend_slots" ["service", "backend"]
        "How many of its service's slots give their new flows to a backend.";
    BackendPackets = Counter "lb_backend_packets_total" ["service", "backend"]
        "Packets forwarded to a backend.";
    BackendBytes = Counter "lb_backend_bytes_total" ["service", "backend"]
        "Bytes forwarded to a backend, as received from clients, Ethernet headers included.";
    BackendNewFlows = Counter "lb_backend_new_flows_total" ["service", "backend"]
        "Segments forwarded to a backend that ask for a new connection, retransmitted ones included.";
    BackendTrackedFlows = Gauge "lb_backend_tracked_flows" ["service", "backend"]
        "Flows to a backend that have a record, as counted by the last pass over the records.";
    BackendDiscovered = Gauge "lb_backend_discovered" ["service", "backend"]
        "1 if a backend comes from the pages of seeds, 0 if from the file.";
    BackendListings = Gauge "lb_backend_listing_seeds" ["service", "backend"]
        "How many seeds list a backend on their last page; only with discovery.";
    BackendNextHopResolved = Gauge "lb_backend_next_hop_resolved" ["service", "backend"]
        "1 if the MAC address is known to which a backend's packets go, else 0: they are dropped.";
    BackendChecks = Counter "lb_backend_checks_total" ["service", "backend", "outcome"]
        "Health checks of a backend since the daemon started, by what they found; the outcome not checked is the balancer's own failure.";
    BackendLastCheckSuccess = Gauge "lb_backend_last_check_success" ["service", "backend"]
        "1 if the last health check of a backend passed, else 0; absent before the first.";
    BackendLastCheckAge = Gauge "lb_backend_last_check_age_seconds" ["service", "backend"]
        "How long ago the last health check of a backend ended; absent before the first.";
    BackendLastCheckDuration = Gauge "lb_backend_last_check_duration_seconds" ["service", "backend"]
        "How long the last health check of a backend took; absent before the first.";
}
