//! Address prefixes as an operator writes them in the file: `10.0.0.0/8`, `2001:db8::/32`.

use std::net::IpAddr;

use toml::de::DeValue;

use super::value::{self, shown};
use crate::core::prefix::Prefix;

/// A prefix from the file.
pub(super) fn prefix(value: &DeValue<'_>) -> Result<Prefix, String> {
    let text = value::string(value, "a prefix")?;
    let expected = |advice: &str| {
        format!(
            "expected a prefix like \"10.0.0.0/8\" or \"2001:db8::/32\", found {}; {advice}",
            shown(text)
        )
    };
    let Some((address, length)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(address) => {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                expected(&format!("for one address write \"{address}/{bits}\""))
            }
            Err(_) => expected("write an address in digits, a slash and a number of bits"),
        });
    };
    // The digits are checked here because the standard library would also take a sign.
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let (Ok(address), true) = (address.parse::<IpAddr>(), is_number) else {
        return Err(expected(
            "write an address in digits, a slash and a number of bits",
        ));
    };
    let Some(prefix) = length
        .parse()
        .ok()
        .filter(|&length: &u8| length <= if address.is_ipv4() { 32 } else { 128 })
        .map(|length| Prefix::of(address, length))
    else {
        return Err(expected(if address.is_ipv4() {
            "IPv4 has prefixes of 0 to 32 bits"
        } else {
            "IPv6 has prefixes of 0 to 128 bits"
        }));
    };
    if prefix.address() != address {
        return Err(format!(
            "expected a prefix, found {}, which has bits behind its first {}; write \"{prefix}\", or \"{address}/{}\" for \
             the one address",
            shown(text),
            prefix.length(),
            if address.is_ipv4() { 32 } else { 128 }
        ));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Prefix, String> {
        prefix(&DeValue::String(text.into()))
    }

    #[test]
    fn prefixes_are_what_they_say() {
        for text in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "192.0.2.1/32",
            "::/0",
            "2001:db8::/33",
            "2001:db8::1/128",
        ] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_advice() {
        let cases = [
            ("10.0.0.1", "for one address write \"10.0.0.1/32\""),
            ("2001:db8::1", "for one address write \"2001:db8::1/128\""),
            ("10.0.0.0/33", "IPv4 has prefixes of 0 to 32 bits"),
            ("10.0.0.0/256", "IPv4 has prefixes of 0 to 32 bits"),
            ("::/129", "IPv6 has prefixes of 0 to 128 bits"),
            (
                "10.1.2.3/8",
                "write \"10.0.0.0/8\", or \"10.1.2.3/32\" for the one address",
            ),
            (
                "2001:db8::1/32",
                "write \"2001:db8::/32\", or \"2001:db8::1/128\" for the one address",
            ),
            (
                "10.0.0.0/",
                "write an address in digits, a slash and a number of bits",
            ),
            (
                "10.0.0.0/+8",
                "write an address in digits, a slash and a number of bits",
            ),
            (
                "10.0.0.0/255.0.0.0",
                "write an address in digits, a slash and a number of bits",
            ),
            (
                "10.0/8",
                "write an address in digits, a slash and a number of bits",
            ),
            (
                "impala.example",
                "write an address in digits, a slash and a number of bits",
            ),
        ];
        for (text, advice) in cases {
            let message = read(text).unwrap_err();
            assert!(message.ends_with(&format!("; {advice}")), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn the_prefix_around_an_address_reads_back(address: IpAddr, length in 0u8..=32) {
            let prefix = Prefix::of(address, length);
            prop_assert_eq!(read(&prefix.to_string()), Ok(prefix));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*|[0-9a-f.:]{0,20}/[0-9]{0,4}") {
            if let Ok(prefix) = read(&text) {
                prop_assert_eq!(read(&prefix.to_string()), Ok(prefix));
            }
        }
    }
}
