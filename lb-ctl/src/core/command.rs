//! A program of the operator's, and what it is told.

use std::{fmt, path::PathBuf};

/// A program and its arguments. No shell reads them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Command {
    /// The absolute path of the program.
    pub program: PathBuf,
    /// What it is told.
    pub arguments: Vec<String>,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        for argument in &self.arguments {
            let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'\\".contains(&byte);
            if !argument.is_empty() && argument.bytes().all(is_plain) {
                write!(f, " {argument}")?;
            } else {
                write!(f, " {argument:?}")?;
            }
        }
        Ok(())
    }
}

/// The most characters of what a program has said that are worth a line of the log.
const MOST_SAID: usize = 500;

/// The end of what a program has said, on one line.
pub fn last_words(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let line = lines.join("; ").replace(char::is_control, "\u{fffd}");
    match line.char_indices().rev().nth(MOST_SAID - 1) {
        Some((start, _)) if start > 0 => format!("…{}", line.get(start..).unwrap_or_default()),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_words_are_one_line() {
        assert_eq!(
            last_words(b"\n no disk\r\nat \x1b[1mall\n\n"),
            "no disk; at \u{fffd}[1mall"
        );
        assert_eq!(last_words(b""), "");
        let long = last_words(&[b'x'; 10_000]);
        assert_eq!(
            (long.chars().count(), long.starts_with('…')),
            (MOST_SAID + 1, true)
        );
        assert_eq!(last_words(&[b'x'; MOST_SAID]).len(), MOST_SAID);
    }

    proptest! {
        #[test]
        fn whatever_a_program_says_does_not_disturb_the_log(output: Vec<u8>) {
            let words = last_words(&output);
            prop_assert!(!words.contains(char::is_control));
            prop_assert!(words.chars().count() <= MOST_SAID + 1);
        }
    }

    #[test]
    fn arguments_that_are_several_words_are_told_from_several_arguments() {
        let command = Command {
            program: "/bin/sh".into(),
            arguments: ["-c", "exit 1", "", "a\nb"].map(Into::into).into(),
        };
        assert_eq!(command.to_string(), r#"/bin/sh -c "exit 1" "" "a\nb""#);
    }
}
