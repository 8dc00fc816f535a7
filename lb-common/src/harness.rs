//! What the harness that measures the XDP program, and the bench that drives it, agree on.
//!
//! `BPF_PROG_TEST_RUN` with a repeat count hands a program its own output again, so a program that rewrites packets cannot
//! be measured directly. The harness is an XDP program that makes a fresh frame in the old one's place and then
//! tail-calls the program under test. It belongs to the tests; the product does not contain it.

/// Length of all frames, in bytes: Ethernet, IPv6 and TCP without options fit.
pub const FRAME_LENGTH: usize = WORDS * size_of::<u64>();

/// How many words make a frame.
const WORDS: usize = 10;

/// How many flows share an address: the lowest bits of a flow's index go into its port.
const PORT_BITS: u32 = 6;

/// The frames that the harness makes, in its map [`STIMULUS`](map::STIMULUS).
///
/// All are the template but for an address and a port, which tell the flows apart: counted up from the template's, or taken from a
/// list. Checksums are those of the template throughout: the program under test trusts or updates them, but never computes them
/// anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Stimulus {
    /// A frame, as received; in words, because the harness copies words and not bytes.
    template: [u64; WORDS],
    /// How many frames have been made.
    pub made: u32,
    /// The last flow's index: one less than a power of two.
    last_flow: u32,
    /// Where the varying address is: its last 4 bytes, whatever the family.
    address_offset: u32,
    /// Where the varying port is.
    port_offset: u32,
    /// The first flow's address, or its last 4 bytes, host byte order.
    first_address: u32,
    /// The first flow's port, host byte order.
    first_port: u32,
    /// The index in [`PROGRAMS`](map::PROGRAMS) of the program to call.
    pub program: u32,
    /// Which list in [`VARIATIONS`](map::VARIATIONS) says what differs, counted from 1. 0 if addresses and ports are counted up.
    list: u32,
    /// Where frames of this run begin, as the harness sees addresses: the place to which it moves them back. 0 before the first.
    pub home: u64,
    /// Where the frame begins that the harness has before it.
    pub place: u64,
}

/// What makes a flow's packets differ from those of another flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Variation {
    /// What goes to the varying address, as on the wire.
    pub address: [u8; 4],
    /// What goes to the varying port, as on the wire.
    pub port: [u8; 2],
    /// Always 0.
    pub reserved: [u8; 2],
}

impl Stimulus {
    /// Frames of `flows` flows, rounded up to a power of two. The first flow's address and port are the template's, at the
    /// given offsets; they must leave room to count up from.
    ///
    /// `None` when an offset is not inside of the template.
    pub fn new(
        template: [u8; FRAME_LENGTH],
        address_offset: usize,
        port_offset: usize,
        flows: u32,
    ) -> Option<Self> {
        let first_address = u32::from_be_bytes(*template.get(address_offset..)?.first_chunk()?);
        let first_port = u16::from_be_bytes(*template.get(port_offset..)?.first_chunk()?);
        let (words, _) = template.as_chunks();
        Some(Self {
            template: core::array::from_fn(|index| u64::from_ne_bytes(words[index])),
            made: 0,
            last_flow: flows.next_power_of_two() - 1,
            address_offset: u32::try_from(address_offset).ok()?,
            port_offset: u32::try_from(port_offset).ok()?,
            first_address,
            first_port: u32::from(first_port),
            program: program::UNDER_TEST,
            list: 0,
            home: 0,
            place: 0,
        })
    }

    /// The same frames, except that a list says what differs in them: [`VARIATIONS`](map::VARIATIONS) has it from
    /// [`Stimulus::listed_after`] on, in the order in which the frames are made. Lists are counted from 1.
    #[must_use]
    pub const fn listed(self, list: u32) -> Self {
        Self { list, ..self }
    }

    /// How many flows there are.
    pub const fn flows(&self) -> u32 {
        self.last_flow + 1
    }

    /// The flow of the frame that comes after `made` others.
    ///
    /// Multiplying by an odd number permutes the flows, so that each has its turn before one has a second; the factor
    /// (2^32 over the golden ratio, D. Knuth's multiplicative hash) puts successive flows far apart.
    #[inline(always)]
    pub const fn flow_after(&self, made: u32) -> u32 {
        made.wrapping_mul(0x9e37_79b9) & self.last_flow
    }

    /// Where the list says what differs in the frame that comes after `made` others; `None` without a list.
    ///
    /// In the order of the frames, not of the flows: read one after the other, entries wait in the cache for their turn.
    #[inline(always)]
    pub const fn listed_after(&self, made: u32) -> Option<u32> {
        match self.list {
            0 => None,
            list => Some((list - 1) * self.flows() + (made & self.last_flow)),
        }
    }

    /// The frame of the first flow, in words of the host's byte order.
    #[inline(always)]
    pub const fn template(&self) -> &[u64; WORDS] {
        &self.template
    }

    /// What is different in the packets of a flow.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a port has 16 bits")]
    pub const fn variation(&self, flow: u32) -> Variation {
        let address = self.first_address.wrapping_add(flow >> PORT_BITS);
        let port = self.first_port.wrapping_add(flow & ((1 << PORT_BITS) - 1));
        Variation {
            address: address.to_be_bytes(),
            port: (port as u16).to_be_bytes(),
            reserved: [0; 2],
        }
    }

    /// Where the variation goes in the frame: address, port.
    #[inline(always)]
    pub const fn offsets(&self) -> (usize, usize) {
        (self.address_offset as usize, self.port_offset as usize)
    }

    /// The frame of a flow, as the harness makes it without a list.
    pub fn frame(&self, flow: u32) -> [u8; FRAME_LENGTH] {
        self.frame_with(self.variation(flow))
    }

    /// The frame with this difference from others.
    pub fn frame_with(&self, variation: Variation) -> [u8; FRAME_LENGTH] {
        let mut frame = [0; FRAME_LENGTH];
        for (bytes, word) in frame.as_chunks_mut().0.iter_mut().zip(self.template) {
            *bytes = word.to_ne_bytes();
        }
        let Variation { address, port, .. } = variation;
        let (address_offset, port_offset) = self.offsets();
        frame[address_offset..address_offset + 4].copy_from_slice(&address);
        frame[port_offset..port_offset + 2].copy_from_slice(&port);
        frame
    }
}

/// Indices in [`PROGRAMS`](map::PROGRAMS).
pub mod program {
    /// The program that only swaps the MAC addresses and transmits.
    pub const FLOOR: u32 = 0;
    /// The program that is measured.
    pub const UNDER_TEST: u32 = 1;
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// Names of the maps in the harness's object file.
pub mod map {
    /// Array of one [`Stimulus`](super::Stimulus).
    pub const STIMULUS: &str = "STIMULUS";
    /// Array of [`Variation`](super::Variation)s: lists, one behind the other, each of as many as there are flows.
    pub const VARIATIONS: &str = "VARIATIONS";
    /// Array of the programs that can be called, indexed by [`program`](super::program).
    pub const PROGRAMS: &str = "PROGRAMS";
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;
    use std::collections::BTreeSet;

    fn stimulus(flows: u32) -> Stimulus {
        let mut template = [0; FRAME_LENGTH];
        template[26..30].copy_from_slice(&[198, 18, 0, 255]);
        template[34..36].copy_from_slice(&40_000u16.to_be_bytes());
        Stimulus::new(template, 26, 34, flows).unwrap()
    }

    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<Stimulus>(), FRAME_LENGTH + 8 * 4 + 2 * 8);
        assert_eq!(size_of::<Variation>(), 4 + 2 + 2);
    }

    #[test]
    fn every_flow_has_its_turn_and_its_own_frame() {
        for flows in [1, 1024, 1 << 17] {
            let stimulus = stimulus(flows);
            let visited: BTreeSet<u32> = (7..7 + flows).map(|made| stimulus.flow_after(made)).collect();
            assert_eq!(visited.len(), flows as usize);
            assert_eq!(visited.last(), Some(&(flows - 1)));
            let frames: BTreeSet<_> = visited.iter().map(|&flow| stimulus.frame(flow)).collect();
            assert_eq!(frames.len(), flows as usize);
        }
    }

    #[test]
    fn the_first_flow_is_the_template_and_the_others_count_up() {
        let stimulus = stimulus(1024);
        let first = stimulus.frame(0);
        assert_eq!(first[..26], [0; 26]);
        assert_eq!(first[26..30], [198, 18, 0, 255]);
        assert_eq!(first[34..36], 40_000u16.to_be_bytes());
        let frame = stimulus.frame(64 + 3);
        assert_eq!(frame[26..30], [198, 18, 1, 0]);
        assert_eq!(frame[34..36], 40_003u16.to_be_bytes());
    }

    #[test]
    fn lists_follow_each_other_and_are_read_again_from_the_begin() {
        let stimulus = stimulus(4);
        assert_eq!(stimulus.listed_after(0), None);
        let read = |list: u32| [0, 1, 3, 4, 6].map(|made| stimulus.listed(list).listed_after(made).unwrap());
        assert_eq!(read(1), [0, 1, 3, 0, 2]);
        assert_eq!(read(2), [4, 5, 7, 4, 6]);
    }

    #[test]
    fn what_does_not_fit_the_template_is_refused() {
        let template = [0; FRAME_LENGTH];
        assert!(Stimulus::new(template, FRAME_LENGTH - 4, FRAME_LENGTH - 2, 1).is_some());
        assert_eq!(Stimulus::new(template, FRAME_LENGTH - 3, 0, 1), None);
        assert_eq!(Stimulus::new(template, 0, usize::MAX, 1), None);
    }
}
