//! The key that both balancers have: `peer.key_file`.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// How many bytes a key has.
const LENGTH: usize = 32;

/// How much of a file is read: more than a key can have with the white space around it.
const READ: u64 = 1024;

/// The key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; LENGTH]);

/// Why a file is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("expected to read the key of the peer in {}: {source}; make one with `openssl rand -hex 32`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner can read it.
    #[error(
        "expected that only its owner can read {}, found mode {mode:03o}: whoever knows the key can tell a balancer where to send \
         packets; `chmod 600` it, and make another key if others may have read it",
        path.display()
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else.
    #[error(
        "expected 64 hexadecimal digits in {}, found {found}; make a key with `openssl rand -hex 32`, and give the same to both",
        path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// What there is. Not the text itself, which may almost be a key.
        found: String,
    },
}

impl Key {
    /// Reads a key.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |source| KeyFileError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        // Of the file that is open, not of one that may have taken its place.
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Mode {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = Vec::new();
        file.take(READ).read_to_end(&mut text).map_err(failed)?;
        Self::of_text(text.trim_ascii()).map_err(|found| KeyFileError::Form {
            path: path.to_owned(),
            found,
        })
    }

    /// The key that hexadecimal digits spell, or what they are instead.
    pub(super) fn of_text(text: &[u8]) -> Result<Self, String> {
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        if text.len() != LENGTH * 2 {
            return Err(format!("{} characters", text.len()));
        }
        let mut key = [0; LENGTH];
        let (pairs, _) = text.as_chunks::<2>();
        for (place, (byte, [high, low])) in key.iter_mut().zip(pairs).enumerate() {
            match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => *byte = high << 4 | low,
                _ => {
                    return Err(format!(
                        "another character at {} or {}",
                        place * 2 + 1,
                        place * 2 + 2
                    ));
                }
            }
        }
        // What an empty device or a template has.
        if key == [0; LENGTH] {
            return Err("nothing but zeros".to_owned());
        }
        Ok(Self(key))
    }

    pub(super) const fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_digits_are_a_key() {
        let text = "00ffA5".to_owned() + &"1".repeat(58);
        let key = Key::of_text(text.as_bytes()).unwrap();
        assert_eq!(key.bytes()[..4], [0x00, 0xff, 0xa5, 0x11]);
        assert_eq!(format!("{key:?}"), "Key(..)", "it is not for logs");
    }

    #[test]
    fn anything_else_is_none_and_is_not_repeated() {
        for (text, found) in [
            ("", "0 characters"),
            ("secret", "6 characters"),
            (&"1".repeat(63), "63 characters"),
            (&"1".repeat(65), "65 characters"),
            (&("1".repeat(62) + "1g"), "another character at 63 or 64"),
            (&"0".repeat(64), "nothing but zeros"),
        ] {
            assert_eq!(Key::of_text(text.as_bytes()).unwrap_err(), found);
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = std::env::temp_dir().join(format!("lb-ctl-key-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("key");
        let read = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Key::read(&path)
        };
        let missing = Key::read(&path).unwrap_err().to_string();
        std::fs::write(&path, "a1".repeat(32) + "\n").unwrap();
        let (own, group, all) = (read(0o600), read(0o640), read(0o444));
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(missing.contains("openssl rand"), "{missing}");
        assert_eq!(own.unwrap().bytes(), &[0xa1; 32]);
        assert!(matches!(group, Err(KeyFileError::Mode { mode: 0o640, .. })));
        assert!(matches!(all, Err(KeyFileError::Mode { mode: 0o444, .. })));
    }
}
