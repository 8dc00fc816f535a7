//! The counters of exceptional packets, named in one place.

/// Makes an enum `Counter` of reasons to count a packet, each with its index in a map, its name and a sentence, and
/// documented as said.
macro_rules! counters {
    ($(#[$doc:meta])* $($variant:ident = $index:literal, $name:literal, $meaning:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Counter {
            $(#[doc = $meaning] $variant = $index,)*
        }

        impl Counter {
            /// Every counter, in the order of their indices.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// How many counters there are: the size of their map.
            pub const COUNT: u32 = {
                #[expect(clippy::cast_possible_truncation, reason = "a handful")]
                let count = Self::ALL.len() as u32;
                count
            };

            /// The name, as operators see it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for an operator.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }

        #[cfg(test)]
        mod tests {
            use super::*;

            #[test]
            fn indices_are_dense_and_names_unique() {
                for (index, &counter) in Counter::ALL.iter().enumerate() {
                    assert_eq!(counter as usize, index);
                    assert!(counter.meaning().ends_with('.'));
                    assert!(
                        Counter::ALL[..index]
                            .iter()
                            .all(|earlier| earlier.name() != counter.name())
                    );
                }
            }
        }
    };
}

pub(crate) use counters;

counters! {
    /// A reason to count a packet. The discriminant is the index in the map of counters.
    DropFragment = 0, "drop_fragment",
        "A fragment of a TCP packet to a VIP was dropped: only the first fragment tells the flow.";
    DropTruncated = 1, "drop_truncated",
        "A TCP packet to a VIP was dropped because it ends before its headers do, or is shorter than it says.";
    DropMalformed = 2, "drop_malformed",
        "A TCP packet to a VIP was dropped because its IP or TCP header contradicts itself.";
    DropNoBackend = 3, "drop_no_backend",
        "A packet was dropped because its service has no backend that could take it.";
    DropNextHopUnknown = 4, "drop_next_hop_unknown",
        "A packet was dropped because the MAC address of its backend has not been resolved yet.";
    DropTableInconsistent = 5, "drop_table_inconsistent",
        "A packet was dropped because a slot or target that must exist was missing: a fault of the controller.";
    DropExtensionHeader = 6, "drop_extension_header",
        "An IPv6 packet to a VIP was dropped because it has an extension header, behind which TCP is not looked for.";
    RecordLost = 7, "record_lost",
        "A packet was forwarded but could not be recorded, because the table of flows is full: its connection may break.";
    ResetSent = 8, "reset_sent",
        "A packet was answered with a TCP reset because its service has no backend that could take it.";
    DropSourceNotAllowed = 9, "drop_source_not_allowed",
        "A packet was dropped because its service may not be used from its source address.";
    IcmpErrorForwarded = 10, "icmp_error_forwarded",
        "An ICMP error about a connection was forwarded to the connection's backend.";
    PacketTooBigSent = 11, "packet_too_big_sent",
        "A packet that does not fit into its backend's tunnel was answered with how long one may be.";
    DropPacketTooBig = 12, "drop_packet_too_big",
        "A packet that does not fit into its backend's tunnel was dropped without an answer, since its sender is no host.";
    DropNoHeadroom = 13, "drop_no_headroom",
        "A packet was dropped because the driver leaves no room for a tunnel's header in front of it.";
    DropTtlExpired = 14, "drop_ttl_expired",
        "A packet to be translated was dropped because its time to live, or hop limit, was used up.";
    DropNoRecord = 15, "drop_no_record",
        "A packet to a service that records every connection was dropped because it belongs to none that is known, and may not be answered.";
    DropNoFreePort = 16, "drop_no_free_port",
        "A SYN to a service with forward = \"nat\" was dropped because every port tried for it was taken.";
    ResetNoRecord = 17, "reset_no_record",
        "A packet to a service that records every connection was answered with a TCP reset because it belongs to none that is known.";
    AnswerForwarded = 18, "answer_forwarded",
        "A backend's answer was translated and forwarded to its client, as it should be.";
    DropRecordsAwaited = 19, "drop_records_awaited",
        "A packet was dropped because the records that say where it belongs were being moved to tables of other sizes.";
}
