//! TCP, RFC 9293.

/// The protocol number of TCP, as assigned by IANA, for IPv4 and IPv6.
pub const PROTOCOL: u8 = 6;

/// Length of a header without options, in bytes.
pub const MIN_HEADER_LENGTH: usize = 20;

/// The fixed 20 bytes of a header, as on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Header([u8; MIN_HEADER_LENGTH]);

/// The control bits of a header, without the ones for congestion notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;

    /// Takes byte 13 of a header.
    #[inline(always)]
    pub const fn new(byte: u8) -> Self {
        Self(byte)
    }

    /// Whether this segment asks for synchronisation: SYN.
    #[inline(always)]
    pub const fn synchronises(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// Whether the sender has no more data: FIN.
    #[inline(always)]
    pub const fn finishes(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// Whether the acknowledgement number is valid: ACK.
    #[inline(always)]
    pub const fn acknowledges(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// Whether this segment resets a connection: RST.
    #[inline(always)]
    pub const fn resets(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Whether this segment asks for a new connection: SYN without ACK, RST or FIN.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }

    /// Whether this segment ends a connection, or its sender's half of it: FIN or RST.
    #[inline(always)]
    pub const fn closes(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }
}

impl Header {
    /// Takes the first 20 bytes of a header, unchecked.
    #[inline(always)]
    pub const fn new(bytes: [u8; MIN_HEADER_LENGTH]) -> Self {
        Self(bytes)
    }

    /// The sender's port, host byte order.
    #[inline(always)]
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// The receiver's port, host byte order.
    #[inline(always)]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// The sequence number.
    #[inline(always)]
    pub const fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    /// The acknowledgement number; means something only with the flag ACK.
    #[inline(always)]
    pub const fn acknowledgement(&self) -> u32 {
        u32::from_be_bytes([self.0[8], self.0[9], self.0[10], self.0[11]])
    }

    /// Length of the header with its options, in bytes: at most 60, below 20 only when malformed.
    #[inline(always)]
    pub const fn header_length(&self) -> usize {
        ((self.0[12] >> 4) as usize) * 4
    }

    /// The control bits.
    #[inline(always)]
    pub const fn flags(&self) -> Flags {
        Flags::new(self.0[13])
    }
}
