//! The values of single keys: from TOML to what they mean, or to a message about what is wrong.
//!
//! The messages have the form "expected …, found …; what to do". Everything that comes from the file is
//! quoted and shortened, so that a message stays one readable line.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::de::{DeInteger, DeValue};

use super::choice::Choice;
use super::duration::{ConfigDuration, ConfigDurationError};
use super::prime;
use crate::core::health::Fraction;
use crate::core::prefix::Prefix;

/// The longest name of a node, service or backend, as long as a DNS label: it fits into a column of a table, and a
/// backend's into the kernel's table of targets.
const NAME_LENGTH: usize = lb_common::layout::NAME_LENGTH;

/// Slots of a service. Fewer would share in steps of more than 0.4 %. The upper bound is the largest prime
/// below 2^20: it takes 8 MiB for each service, and more would only make the shares finer than 0.0001 %.
const SLOTS_PER_SERVICE: RangeInclusive<u32> = 251..=1_048_573;

/// The longest path that fits into a unix socket address with its final zero byte.
const SOCKET_PATH_LENGTH: usize = 107;

/// The longest path of a directory: Linux takes 4096 bytes with the names of files in it.
const DIRECTORY_LENGTH: usize = 3000;

/// The longest path of a page.
const WEB_PATH_LENGTH: usize = 1024;

/// The longest interface name of Linux.
const INTERFACE_NAME_LENGTH: usize = 15;

/// The most characters of a text from the file that a message repeats.
const SHOWN_LENGTH: usize = 60;

/// A text from the file, quoted, on one line, and shortened if it is very long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_LENGTH) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or(text)),
    }
}

/// A value from the file, described for a message.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => shown(text),
        DeValue::Integer(number) => format!("the integer {}", shown_number(&number.to_string())),
        DeValue::Float(number) => format!("the float {}", shown_number(number.as_str())),
        DeValue::Boolean(truth) => format!("the boolean {truth}"),
        DeValue::Datetime(datetime) => format!("the date-time {datetime}"),
        DeValue::Array(elements) if elements.is_empty() => "an empty array".into(),
        DeValue::Array(_) => "an array".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

fn shown_number(digits: &str) -> String {
    match digits.char_indices().nth(SHOWN_LENGTH) {
        None => digits.to_owned(),
        Some((end, _)) => format!("{}…", digits.get(..end).unwrap_or(digits)),
    }
}

/// The candidate that a misspelt word most likely means, if one is near.
pub(super) fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    // A third of the letters wrong is a misspelling, more is another word. Long words cannot be near any of
    // ours.
    if word.len() > 2 * NAME_LENGTH {
        return None;
    }
    candidates
        .iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Whether a text is usable as the name of a node, service or backend. A node's is part of a path: it must not be `..`.
pub fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_LENGTH).contains(&text.len())
        && text.bytes().all(allowed)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// What is wrong with a text that [`is_name`] refuses.
pub fn bad_name(text: &str) -> String {
    format!(
        "expected a name of 1 to {NAME_LENGTH} letters, digits, '.', '_' and '-', the first a letter or a digit, found {}; \
         choose a name that is easy to type",
        shown(text)
    )
}

/// The name of a node, service or backend.
pub(super) fn name(value: &DeValue<'_>) -> Result<String, String> {
    let text = string(value, "a name")?;
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(bad_name(text))
    }
}

/// The name of a network interface, by the kernel's rule for such names.
pub(super) fn interface(value: &DeValue<'_>) -> Result<String, String> {
    let text = string(value, "an interface name")?;
    let forbidden = |char: char| char == '/' || char == ':' || char.is_whitespace() || char.is_control();
    let sound = (1..=INTERFACE_NAME_LENGTH).contains(&text.len()) && !text.contains(forbidden);
    if sound && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected an interface name of 1 to {INTERFACE_NAME_LENGTH} bytes without spaces, '/' and ':', found {}; \
         `ip link` lists the interfaces",
        shown(text)
    ))
}

/// The path of a directory.
pub(super) fn directory(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let text = string(value, "a path")?;
    if text.starts_with('/') && text.len() <= DIRECTORY_LENGTH && !text.contains('\0') {
        return Ok(PathBuf::from(text));
    }
    Err(format!(
        "expected the absolute path of a directory, of at most {DIRECTORY_LENGTH} bytes, found {}; leave the key out to get \
         \"/var/lib/lb-ctl\"",
        shown(text)
    ))
}

/// The path of a unix socket.
pub(super) fn socket(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let text = string(value, "a path")?;
    if text.starts_with('/')
        && text.len() <= SOCKET_PATH_LENGTH
        && !text.contains('\0')
        && !text.ends_with('/')
    {
        return Ok(PathBuf::from(text));
    }
    Err(format!(
        "expected an absolute path of at most {SOCKET_PATH_LENGTH} bytes, found {}; choose one like \
         \"/run/lb-ctl/api.sock\"",
        shown(text)
    ))
}

/// An address and port to listen on.
pub(super) fn listen(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let advice = "write \"127.0.0.1:9410\" or \"[::1]:9410\"; with 0.0.0.0 or [::] everybody can read it who can reach the host";
    socket_address(value, advice)
}

/// An address and port of one of the two balancers.
pub(super) fn peer(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    socket_address(value, "write \"192.0.2.1:7000\" or \"[2001:db8::1]:7000\"")
}

fn socket_address(value: &DeValue<'_>, advice: &str) -> Result<SocketAddr, String> {
    let text = string(value, "an address and port")?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err(format!(
            "expected an IP address and a port, found {}; {advice}",
            shown(text)
        )),
    }
}

/// An address that a VIP or a backend can have.
pub(super) fn address(value: &DeValue<'_>) -> Result<IpAddr, String> {
    host_address(value, |_| false)
}

/// An address of balancers on a link, one's own or a shared one: link-local ones are good as well.
pub(super) fn own_address(value: &DeValue<'_>) -> Result<IpAddr, String> {
    host_address(
        value,
        |address| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()),
    )
}

fn host_address(value: &DeValue<'_>, is_fine: impl Fn(IpAddr) -> bool) -> Result<IpAddr, String> {
    let text = string(value, "an IP address")?;
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(format!(
            "expected an IP address, found {}; write the numeric address, names are not looked up",
            shown(text)
        ));
    };
    match unusable(address).filter(|_| !is_fine(address)) {
        None => Ok(address),
        Some(kind) => Err(format!(
            "expected the address of one host, found {kind}, {text:?}; use an address of your network"
        )),
    }
}

/// What kind of address it is, if no host can be reached at it from the network.
pub fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        address if address.is_unspecified() => Some("the unspecified address"),
        IpAddr::V4(address) if address.octets()[0] == 0 => Some("an address of \"this network\""),
        address if address.is_loopback() => Some("a loopback address"),
        address if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(address) if address.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 form"),
        _ => None,
    }
}

/// The outer sources of `ipip` over IPv4: the flow fills in the last 16 bits.
pub(super) fn ipip_source_ipv4(value: &DeValue<'_>) -> Result<Prefix, String> {
    let example = r#""198.18.0.0/16""#;
    ipip_source(value, example, |network| {
        network.address().is_ipv4() && network.length() == 16
    })
}

/// The outer sources of `ipip` over IPv6: the flow fills in the last 32 bits.
pub(super) fn ipip_source_ipv6(value: &DeValue<'_>) -> Result<Prefix, String> {
    let example = r#"a network of 64 to 96 bits like "100::/64""#;
    ipip_source(value, example, |network| {
        network.address().is_ipv6() && (64..=96).contains(&network.length())
    })
}

fn ipip_source(value: &DeValue<'_>, example: &str, fits: impl Fn(Prefix) -> bool) -> Result<Prefix, String> {
    let text = string(value, "a network")?;
    let advice = format!("leave the key out, or write {example} in which no host is");
    let network: Prefix = text.parse().map_err(|error| format!("{error}; {advice}"))?;
    if let Some(kind) = unusable(network.address()) {
        return Err(format!(
            "expected a network of hosts, found {kind}, {text:?}; {advice}"
        ));
    }
    if fits(network) {
        Ok(network)
    } else {
        Err(format!(
            "expected a network of another size or family, found {text:?}; {advice}"
        ))
    }
}

/// A TCP port.
pub(super) fn port(value: &DeValue<'_>) -> Result<u16, String> {
    integer(
        value,
        1..=u16::MAX,
        "write the port of the service, 21050 for HiveServer2",
    )
}

/// The size of a service's slot table, a prime number.
pub(super) fn slots_per_service(value: &DeValue<'_>) -> Result<u32, String> {
    let slots = integer(value, SLOTS_PER_SERVICE, "leave the key out to get 65537")?;
    if prime::is_prime(slots) {
        return Ok(slots);
    }
    let (below, above) = prime::neighbours(slots);
    let nearest: Vec<String> = [below, above]
        .into_iter()
        .flatten()
        .filter(|prime| SLOTS_PER_SERVICE.contains(prime))
        .map(|prime| prime.to_string())
        .collect();
    Err(format!(
        "expected a prime number, found {slots}; use {}",
        nearest.join(" or ")
    ))
}

/// A 64-bit seed: an integer, or a string in hexadecimal for programs that write TOML and know no unsigned
/// 64-bit integers.
pub(super) fn seed(value: &DeValue<'_>) -> Result<u64, String> {
    let seed = match value {
        DeValue::Integer(number) => parse_integer(number).and_then(|number| u64::try_from(number).ok()),
        // The digits are checked here because the standard library would also take a sign.
        DeValue::String(text) => text
            .strip_prefix("0x")
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok()),
        _ => None,
    };
    seed.ok_or_else(|| {
        format!(
            "expected an integer from 0 to {} or a string like \"0x1b873593cc9e2d51\", found {}; give both balancers \
             the same",
            u64::MAX,
            found(value)
        )
    })
}

/// The tier of a backend.
pub(super) fn tier(value: &DeValue<'_>) -> Result<u8, String> {
    integer(value, 0..=u8::MAX, "leave the key out to get 0")
}

/// A duration within bounds.
pub(super) fn duration(
    value: &DeValue<'_>,
    bounds: RangeInclusive<ConfigDuration>,
    advice: &str,
) -> Result<ConfigDuration, String> {
    let refuse = |advice: &str| {
        let (least, most) = (bounds.start(), bounds.end());
        format!(
            "expected a duration from \"{least}\" to \"{most}\", found {}; {advice}",
            found(value)
        )
    };
    let parsed = value.as_str().map(str::parse::<ConfigDuration>);
    match parsed {
        None => Err(refuse(
            "write a whole number and a unit in quotes: ms, s, m, h or d",
        )),
        Some(Err(ConfigDurationError::Form)) => {
            Err(refuse("write a whole number and one unit: ms, s, m, h or d"))
        }
        Some(Ok(duration)) if bounds.contains(&duration) => Ok(duration),
        Some(Ok(_) | Err(ConfigDurationError::TooLong)) => Err(refuse(advice)),
    }
}

/// An integer within bounds.
pub(super) fn integer<T>(value: &DeValue<'_>, bounds: RangeInclusive<T>, advice: &str) -> Result<T, String>
where
    T: TryFrom<i128> + PartialOrd + std::fmt::Display,
{
    let refuse = |advice: &str| {
        format!(
            "expected an integer from {} to {}, found {}; {advice}",
            bounds.start(),
            bounds.end(),
            found(value)
        )
    };
    let DeValue::Integer(number) = value else {
        let is_quoted_number = value.as_str().is_some_and(|text| text.parse::<i128>().is_ok());
        return Err(refuse(if is_quoted_number {
            "remove the quotes"
        } else {
            advice
        }));
    };
    parse_integer(number)
        .and_then(|number| T::try_from(number).ok())
        .filter(|number| bounds.contains(number))
        .ok_or_else(|| refuse(advice))
}

fn parse_integer(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// One of the words of a [`Choice`].
pub(super) fn choice<C: Choice>(value: &DeValue<'_>) -> Result<C, String> {
    let words: Vec<&str> = C::ALL.iter().map(|choice| choice.word()).collect();
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    let listed = if quoted.len() == 1 {
        quoted.concat()
    } else {
        format!("one of {}", quoted.join(", "))
    };
    let text = string(value, &listed)?;
    let Some(choice) = C::ALL.iter().find(|choice| choice.word() == text) else {
        let advice = match nearest(text, &words) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("use {listed}"),
        };
        return Err(format!("expected {listed}, found {}; {advice}", shown(text)));
    };
    Ok(*choice)
}

/// A share from 0 to 1, kept in thousandths.
pub(super) fn fraction(value: &DeValue<'_>) -> Result<Fraction, String> {
    let number = match value {
        DeValue::Float(number) => number.as_str().replace('_', "").parse::<f64>().ok(),
        DeValue::Integer(number) => parse_integer(number)
            .and_then(|number| u8::try_from(number).ok())
            .map(f64::from),
        _ => None,
    };
    let Some(share) = number.filter(|share| (0.0..=1.0).contains(share)) else {
        return Err(format!(
            "expected a number from 0 to 1, found {}; write 0.5 for the half",
            found(value)
        ));
    };
    let thousandths = (share * 1000.0).round();
    // Within 0 and 1000, and whole.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(Fraction::from_thousandths(thousandths as u16))
}

/// Yes or no.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    match value {
        DeValue::Boolean(truth) => Ok(*truth),
        other => Err(format!(
            "expected true or false, found {}; write it without quotes",
            found(other)
        )),
    }
}

/// The path of a page on a web server.
pub(super) fn web_path(value: &DeValue<'_>) -> Result<String, String> {
    let text = string(value, "a path")?;
    // What may stand in a request line without escapes, RFC 3986 section 3.3, and a query.
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte);
    if text.starts_with('/') && text.len() <= WEB_PATH_LENGTH && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected a path of at most {WEB_PATH_LENGTH} characters that begins with '/', found {}; write it as in a URL, \
         with %20 for a space",
        shown(text)
    ))
}

/// An absolute path of a file.
pub(super) fn file(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let text = string(value, "a path")?;
    if text.starts_with('/') && !text.contains('\0') && !text.ends_with('/') {
        return Ok(PathBuf::from(text));
    }
    Err(format!(
        "expected the absolute path of a file, found {}; begin it with '/'",
        shown(text)
    ))
}

/// The name of a host in a certificate: a DNS name or an address.
pub(super) fn host_name(value: &DeValue<'_>) -> Result<String, String> {
    let text = string(value, "a name")?;
    if text.parse::<IpAddr>().is_ok() || is_host_name(text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected a DNS name or an IP address, found {}; write what the certificate bears",
        shown(text)
    ))
}

/// Whether a text is a DNS name.
pub(super) fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = text.len() <= 253 && text.split('.').all(is_label);
    // A last label of digits only belongs to an address, if to anything.
    let is_numeric = text
        .rsplit('.')
        .next()
        .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    is_name && !is_numeric
}

/// The name of a metric.
pub(super) fn metric(value: &DeValue<'_>) -> Result<String, String> {
    let text = string(value, "a metric's name")?;
    if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected a metric's name of 1 to 128 characters without spaces, found {}; write it as the page /jsonmetrics does",
        shown(text)
    ))
}

pub(super) fn string<'v>(value: &'v DeValue<'_>, expected: &str) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| {
        format!(
            "expected {expected} as a string, found {}; write it in quotes",
            found(value)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_strange_texts_stay_one_short_line() {
        assert_eq!(shown("im\npala"), r#""im\npala""#);
        assert_eq!(shown(&"é".repeat(61)), format!("\"{}\"…", "é".repeat(60)));
    }

    #[test]
    fn a_misspelling_is_near_and_another_word_is_not() {
        let keys = ["name", "address", "port", "weight", "tier"];
        for (word, near) in [
            ("wieght", "weight"),
            ("adress", "address"),
            ("Port", "port"),
            ("teir", "tier"),
        ] {
            assert_eq!(nearest(word, &keys), Some(near), "{word}");
        }
        for word in ["", "maxconn", "check", "naïveté"] {
            assert_eq!(nearest(word, &keys), None, "{word}");
        }
    }
}
