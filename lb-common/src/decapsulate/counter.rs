//! What the decapsulator counts.

use crate::counter::counters;

counters! {
    /// What became of a tunnel packet to this host. The discriminant is the index in the map of counters.
    Decapsulated = 0, "decapsulated",
        "A packet was taken out of its tunnel and given to the kernel.";
    PassedSource = 1, "passed_source",
        "A tunnel packet was left to the kernel, unopened, because it is not from a balancer's outer sources.";
    DropDestination = 2, "drop_destination",
        "A tunnel packet was dropped because the packet inside is not to a VIP of this host.";
    DropMalformed = 3, "drop_malformed",
        "A tunnel packet was dropped because the packet inside contradicts itself, or is longer than its tunnel packet.";
    DropFragment = 4, "drop_fragment",
        "A fragment of a tunnel packet was dropped: balancers send none, so a router on the way has made it.";
    DropCongestion = 5, "drop_congestion",
        "A tunnel packet was dropped because a router has marked congestion and the sender inside does not know the mark.";
}
