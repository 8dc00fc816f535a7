//! No text, however strange, makes the parser panic, and what it refuses it refuses with readable errors.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::{ConfigErrors, parse};
use super::documentation::SAMPLE;
use super::{MINIMAL, host};

/// Fragments of configurations, to reach further into the parser than random characters do.
const PARTS: [&str; 24] = [
    "[node]\n",
    "[[service]]\n",
    "[service]\n",
    "[[service.backend]]\n",
    "[service.check]\n",
    "[datapath]\n",
    "name",
    "vip",
    "port",
    "weight",
    "interfaces",
    "hash_seed",
    " = ",
    "\"impala\"",
    "\"192.0.2.10\"",
    "-1",
    "0",
    "1e400",
    "{}",
    "[",
    "]",
    "\n",
    "\"",
    "99999999999999999999999999999999999999999999",
];

fn check_errors(text: &str) -> Result<(), TestCaseError> {
    let Err(errors) = parse("lb.toml", text, &host()) else {
        return Ok(());
    };
    prop_assert!(!errors.errors().is_empty(), "refused without a reason");
    let lines = text.matches('\n').count() + 1;
    for pair in errors.errors().windows(2) {
        prop_assert!(pair[0].line() <= pair[1].line(), "out of order:\n{errors}");
    }
    for error in errors.errors() {
        prop_assert!((1..=lines).contains(&error.line()), "no such line: {error}");
        let printed = ConfigErrors::new("lb.toml", vec![error.clone()]).to_string();
        prop_assert!(!printed.contains(char::is_control), "not one line: {printed:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_texts(text in "(?s).{0,200}") {
        check_errors(&text)?;
    }

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_errors(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn arbitrary_sequences_of_toml_parts(parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 0..40)) {
        check_errors(&parts.concat())?;
    }

    #[test]
    fn samples_with_parts_cut_out_and_put_in(
        sample in prop::sample::select(vec![MINIMAL, SAMPLE]),
        edits in prop::collection::vec((any::<Index>(), 0_usize..30, prop::sample::select(&PARTS[..])), 1..8),
    ) {
        let mut text: Vec<char> = sample.chars().collect();
        for (start, length, part) in edits {
            let start = start.index(text.len() + 1);
            let end = (start + length).min(text.len());
            text.splice(start..end, part.chars());
        }
        check_errors(&text.into_iter().collect::<String>())?;
    }

    #[test]
    fn samples_with_lines_shuffled(mut lines in Just(MINIMAL.lines().collect::<Vec<_>>()).prop_shuffle(), keep in 0_usize..=9) {
        lines.truncate(keep);
        check_errors(&lines.join("\n"))?;
    }
}

#[test]
fn deep_nesting_is_refused() {
    for text in [
        "a = ".to_owned() + &"[".repeat(100_000),
        "a.".repeat(100_000) + "a = 1",
    ] {
        assert!(parse("lb.toml", &text, &host()).is_err());
    }
}

#[test]
fn a_large_configuration_is_accepted() {
    let mut text = "[datapath]\ninterfaces = [\"eth0\"]\n".to_owned();
    for service in 0..64 {
        writeln!(
            text,
            "[[service]]\nname = \"s{service}\"\nvip = \"10.1.0.{service}\"\nport = 21050"
        )
        .unwrap();
        for backend in 0..16 {
            writeln!(
                text,
                "[[service.backend]]\nname = \"b{backend}\"\naddress = \"10.0.0.{backend}\""
            )
            .unwrap();
        }
    }
    let config = super::accept(&text);
    assert_eq!(
        config
            .services
            .iter()
            .map(|service| service.backends.len())
            .sum::<usize>(),
        1024
    );
}
