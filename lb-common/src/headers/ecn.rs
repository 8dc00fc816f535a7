//! Explicit congestion notification through tunnels, RFC 6040.

/// The two bits of the traffic class that are not DSCP, RFC 3168.
pub const MASK: u8 = 0b11;
/// The sender does not speak ECN.
pub const NOT_CAPABLE: u8 = 0b00;
/// The sender speaks ECN; the other mark of that kind.
pub const CAPABLE_1: u8 = 0b01;
/// A router was congested.
pub const CONGESTED: u8 = 0b11;

/// What the bits of the inner packet become when the tunnel ends (RFC 6040, figure 4). `None` for a packet that must be
/// dropped: a router has marked it instead of dropping it, and its sender would not understand.
///
/// At the beginning of a tunnel the bits are copied (normal mode, section 4.1), which needs no function.
#[inline(always)]
pub const fn leave(inner: u8, outer: u8) -> Option<u8> {
    let (inner, outer) = (inner & MASK, outer & MASK);
    match (inner, outer) {
        (NOT_CAPABLE, CONGESTED) => None,
        (NOT_CAPABLE | CONGESTED, _) => Some(inner),
        (_, CONGESTED | CAPABLE_1) => Some(outer),
        _ => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_table_is_right() {
        // Rows: the inner packet's bits, not capable, ECT(0), ECT(1), congested. Columns: the outer packet's, in the same order.
        const ORDER: [u8; 4] = [0b00, 0b10, 0b01, 0b11];
        let table = [
            [Some(0b00), Some(0b00), Some(0b00), None],
            [Some(0b10), Some(0b10), Some(0b01), Some(0b11)],
            [Some(0b01), Some(0b01), Some(0b01), Some(0b11)],
            [Some(0b11), Some(0b11), Some(0b11), Some(0b11)],
        ];
        for (inner, row) in ORDER.into_iter().zip(table) {
            for (outer, expected) in ORDER.into_iter().zip(row) {
                assert_eq!(
                    leave(inner, outer),
                    expected,
                    "inner {inner:02b}, outer {outer:02b}"
                );
                assert_eq!(
                    leave(inner | 0xb8, outer | 0x28),
                    expected,
                    "DSCP does not matter"
                );
            }
        }
    }
}
