use super::*;
use proptest::prelude::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn decode(bytes: &[u8], from: &str, to: &str) -> Result<Decoded, DecodeError> {
    Advertisement::decode(bytes, address(from), address(to), ChecksumForm::Message)
}

/// VRID 51, priority 100, every second, for 192.0.2.10.
fn example() -> Advertisement {
    Advertisement {
        vrid: NonZeroU8::new(51).unwrap(),
        priority: 100,
        interval: Interval::from_centiseconds(100).unwrap(),
        addresses: vec![address("192.0.2.10")],
    }
}

const FROM: &str = "192.0.2.2";
const GROUP: &str = "224.0.0.18";

/// The example, with a header byte changed and the checksum made right again.
fn with(offset: usize, byte: u8) -> Result<Decoded, DecodeError> {
    let mut bytes = example().encode(address(FROM), address(GROUP), ChecksumForm::Message);
    bytes[offset] = byte;
    decode(&resummed(bytes, FROM, GROUP), FROM, GROUP)
}

fn resummed(mut bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    bytes[6..8].fill(0);
    let checksum = sum(&bytes, address(from), address(to), ChecksumForm::Message).checksum();
    bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The sum by hand: 3133 + 6401 + 0064 + c000 + 020a is 157a2, folded 57a3. With the pseudo-header c000 + 0202 + e000 + 0012 + 0070 +
/// 000c, folded a291, comes to it: fa34.
#[test]
fn both_checksums_over_ipv4_by_hand() {
    let bytes = |form| example().encode(address(FROM), address(GROUP), form);
    let mut expected = [0x31, 51, 100, 1, 0, 100, 0, 0, 192, 0, 2, 10];
    for (form, sum) in [
        (ChecksumForm::Message, 0x57a3_u16),
        (ChecksumForm::PseudoHeader, 0xfa34),
    ] {
        expected[6..8].copy_from_slice(&(!sum).to_be_bytes());
        assert_eq!(bytes(form), expected, "{form}");
        assert_eq!(decode(&expected, FROM, GROUP).unwrap().checksum, form);
    }
}

#[test]
fn over_ipv6_there_is_one_checksum() {
    let advertisement = Advertisement {
        addresses: vec![address("fe80::10"), address("2001:db8::10")],
        ..example()
    };
    let (from, to) = (address("fe80::2"), group_address(false));
    let bytes = advertisement.encode(from, to, ChecksumForm::Message);
    assert_eq!(bytes, advertisement.encode(from, to, ChecksumForm::PseudoHeader));
    assert_eq!(bytes.len(), 8 + 2 * 16);
    assert_eq!(
        decode(&bytes, "fe80::2", "ff02::12").unwrap().advertisement,
        advertisement
    );
    assert!(
        matches!(
            decode(&bytes, "fe80::3", "ff02::12"),
            Err(DecodeError::Checksum { .. })
        ),
        "another source"
    );
}

#[test]
fn each_field_is_checked_by_itself() {
    assert_eq!(with(0, 0x21), Err(DecodeError::Version { found: 2 }));
    assert_eq!(with(0, 0x41), Err(DecodeError::Version { found: 4 }));
    assert_eq!(with(0, 0x32), Err(DecodeError::Type { found: 2 }));
    assert_eq!(with(1, 0), Err(DecodeError::NoVrid));
    assert_eq!(with(5, 0), Err(DecodeError::NoInterval));
    let length = |count, expected| {
        Err(DecodeError::Length {
            count,
            expected,
            found: 12,
        })
    };
    assert_eq!(with(3, 0), length(0, 8));
    assert_eq!(with(3, 2), length(2, 16));
    assert_eq!(with(3, 255), length(255, 1028));
    assert_eq!(with(2, 0).unwrap().advertisement.priority, LEAVING);
    let reserved = with(4, 0xf0).unwrap().advertisement;
    assert_eq!(reserved, example(), "reserved bits are ignored");
    let nobody = resummed(vec![0x31, 51, 100, 0, 0, 100, 0, 0], FROM, GROUP);
    assert_eq!(decode(&nobody, FROM, GROUP), Err(DecodeError::NoAddress));
    assert!(matches!(
        decode(&nobody, FROM, "ff02::12"),
        Err(DecodeError::Families { .. })
    ));
}

/// As RFC 3768 has it: an interval in seconds, and eight bytes of authentication at the end.
#[test]
fn version_2_is_called_by_its_name() {
    let bytes = [
        0x21, 51, 100, 1, 0, 1, 0xb9, 0x51, 192, 0, 2, 10, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    for length in 1..bytes.len() {
        assert_eq!(
            decode(&bytes[..length], FROM, GROUP),
            Err(DecodeError::Version { found: 2 })
        );
    }
}

#[test]
fn more_than_fits_is_left_out() {
    let advertisement = Advertisement {
        addresses: (0..300)
            .map(|low| IpAddr::from((3_221_226_000_u32 + low).to_be_bytes()))
            .collect(),
        ..example()
    };
    let bytes = advertisement.encode(address(FROM), address(GROUP), ChecksumForm::Message);
    let decoded = decode(&bytes, FROM, GROUP).unwrap().advertisement;
    assert_eq!(decoded.addresses, advertisement.addresses[..255]);
}

prop_compose! {
    fn any_advertisement(is_ipv4: bool)(
        vrid: NonZeroU8,
        priority: u8,
        centiseconds in 1_u16..=4095,
        addresses in prop::collection::vec(any_address(is_ipv4), 1..8),
    ) -> Advertisement {
        let interval = Interval::from_centiseconds(centiseconds).unwrap();
        Advertisement { vrid, priority, interval, addresses }
    }
}

fn any_address(is_ipv4: bool) -> BoxedStrategy<IpAddr> {
    if is_ipv4 {
        any::<Ipv4Addr>().prop_map(IpAddr::V4).boxed()
    } else {
        any::<Ipv6Addr>().prop_map(IpAddr::V6).boxed()
    }
}

/// An advertisement, its way, and its checksum.
fn any_sent() -> impl Strategy<Value = (Advertisement, IpAddr, IpAddr, ChecksumForm)> {
    any::<bool>().prop_flat_map(|is_ipv4| {
        (
            any_advertisement(is_ipv4),
            any_address(is_ipv4),
            any_address(is_ipv4),
            prop_oneof![Just(ChecksumForm::Message), Just(ChecksumForm::PseudoHeader)],
        )
    })
}

proptest! {
    #[test]
    fn what_is_sent_is_received((sent, from, to, form) in any_sent()) {
        let bytes = sent.encode(from, to, form);
        let received = Advertisement::decode(&bytes, from, to, form);
        prop_assert_eq!(received, Ok(Decoded { advertisement: sent.clone(), checksum: form }));
        let received = Advertisement::decode(&bytes, from, to, form.other()).unwrap();
        prop_assert_eq!(received.advertisement, sent);
    }

    #[test]
    fn no_part_of_a_packet_is_a_packet((sent, from, to, form) in any_sent(), more: u8) {
        let mut bytes = sent.encode(from, to, form);
        for length in 0..bytes.len() {
            let error = Advertisement::decode(&bytes[..length], from, to, form).unwrap_err();
            let is_told = matches!(error, DecodeError::Truncated { .. } | DecodeError::Length { .. });
            prop_assert!(is_told, "{} bytes: {}", length, error);
        }
        bytes.push(more);
        let is_longer = matches!(
            Advertisement::decode(&bytes, from, to, form),
            Err(DecodeError::Length { .. })
        );
        prop_assert!(is_longer);
    }

    /// One that is wrong in a bit is refused: the checksum alone sees all of these. (With one form in it, it is never right by
    /// the other one after a single bit has changed, unless the addresses of the way happen to sum up to that very bit.)
    #[test]
    fn a_flipped_bit_is_seen((sent, ..) in any_sent(), place: prop::sample::Index, bit in 0..8) {
        let is_ipv4 = sent.addresses[0].is_ipv4();
        let from = if is_ipv4 { address(FROM) } else { address("fe80::2") };
        let to = group_address(is_ipv4);
        let mut bytes = sent.encode(from, to, ChecksumForm::Message);
        let place = place.index(bytes.len());
        bytes[place] ^= 1_u8 << bit;
        prop_assert!(Advertisement::decode(&bytes, from, to, ChecksumForm::Message).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, from: IpAddr, to: IpAddr) {
        let _ = Advertisement::decode(&bytes, from, to, ChecksumForm::PseudoHeader);
    }

    /// Nearly an advertisement: whatever is taken says the same when it is sent again.
    #[test]
    fn what_is_taken_means_one_thing(
        header: [u8; 8],
        rest in prop::collection::vec(any::<u8>(), 0..40),
        from: Ipv4Addr,
    ) {
        let mut bytes = header.to_vec();
        bytes[0] = 0x31;
        bytes[3] = u8::try_from(rest.len() / 4).unwrap();
        bytes.extend(rest);
        let bytes = resummed(bytes, &from.to_string(), GROUP);
        let (from, to) = (from.into(), address(GROUP));
        if let Ok(Decoded { advertisement, checksum }) = Advertisement::decode(&bytes, from, to, ChecksumForm::Message) {
            let again = advertisement.encode(from, to, checksum);
            prop_assert_eq!(Advertisement::decode(&again, from, to, checksum).unwrap().advertisement, advertisement);
        }
    }
}
