//! Errors in one line.

use std::error::Error;

/// An error and its causes, joined by colons. A cause whose text is in the line already is not repeated: some libraries
/// name the causes of their errors themselves.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: io::Error,
    }

    #[test]
    fn causes_follow_once() {
        let layer = |text| Layer {
            text,
            source: io::Error::other("no space"),
        };
        assert_eq!(chain(&layer("writing")), "writing: no space");
        assert_eq!(chain(&layer("writing: no space")), "writing: no space");
    }
}
