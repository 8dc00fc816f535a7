//! The file in which operators' decisions are kept.
//!
//! It is replaced, never changed: whoever reads it finds the old decisions or the new ones, also after a loss of power.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::core::operator::{Decisions, StoredError};

/// The most that is read: some ten thousand decisions.
const LONGEST: u64 = 1 << 22;

/// Why decisions could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system refuses.
    #[error("the file {path} cannot be read")]
    Unreadable {
        /// The path of the file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It is no file with decisions.
    #[error("the file {path} is damaged")]
    Damaged {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        source: StoredError,
    },
    /// It is not even a file, or a very large one.
    #[error("{path} is not a file of at most {LONGEST} bytes")]
    Strange {
        /// Its path.
        path: PathBuf,
    },
}

/// Why decisions could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be {what}")]
pub struct WriteError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Where a node's decisions are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionsFile {
    directory: PathBuf,
    name: String,
}

impl DecisionsFile {
    /// The file of a node in a directory. Neither need be there.
    pub fn of(directory: &Path, node: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            name: format!("{node}.decisions.json"),
        }
    }

    /// The path of the file.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// Reads the decisions: none if there is no file.
    pub fn read(&self) -> Result<Decisions, ReadError> {
        let path = self.path();
        let text = match read_up_to(&path, LONGEST) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(ReadError::Strange { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Decisions::default()),
            Err(source) => return Err(ReadError::Unreadable { path, source }),
        };
        Decisions::from_text(&text).map_err(|source| ReadError::Damaged { path, source })
    }

    /// Gives a file that cannot be used another name, under which nothing overwrites it. Returns its new path.
    #[expect(
        clippy::disallowed_methods,
        reason = "the time makes the name unique, and tells people when it was"
    )]
    pub fn move_aside(&self) -> Result<PathBuf, WriteError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let aside = self
            .directory
            .join(format!("{}.damaged-{}", self.name, since.as_millis()));
        fs::rename(self.path(), &aside).map_err(|source| WriteError {
            what: "moved aside",
            path: self.path(),
            source,
        })?;
        Ok(aside)
    }

    /// Keeps decisions in the place of the earlier ones. Returns when they are on the disk; if it fails, the earlier ones are still
    /// there.
    pub fn write(&self, text: &str) -> Result<(), WriteError> {
        let (path, new) = (self.path(), self.directory.join(format!("{}.new", self.name)));
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| WriteError { what, path, source }
        };
        fs::create_dir_all(&self.directory).map_err(failed("made", &self.directory))?;
        let written = write_to_disk(&new, text);
        if let Err(source) = written {
            // Its room may be what others lack.
            let _ = fs::remove_file(&new);
            return Err(failed("written", &path)(source));
        }
        fs::rename(&new, &path).map_err(failed("replaced", &path))?;
        // The new name, too.
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed("written to the disk", &self.directory))
    }
}

/// The content of a file; `None` if it is something else, or longer.
fn read_up_to(path: &Path, longest: u64) -> io::Result<Option<Vec<u8>>> {
    // Opening a pipe would wait for its other end.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > longest {
        return Ok(None);
    }
    let mut text = Vec::new();
    File::open(path)?.take(longest + 1).read_to_end(&mut text)?;
    Ok(Some(text).filter(|text| text.len() as u64 <= longest))
}

fn write_to_disk(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::operator::{Action, Admin, Command};

    /// A directory that is gone with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lb-ctl-decisions-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<String> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn drained() -> Decisions {
        let command = Command {
            backend: "impala1".to_owned(),
            service: None,
            action: Action::Drain {
                deadline_ms: None,
                soft: true,
            },
            force: false,
        };
        Decisions::default().after(&command, 5, "lb1").unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_stays_behind() {
        let scratch = Scratch::new("write");
        let file = DecisionsFile::of(&scratch.0.join("made"), "lb1");
        assert_eq!(file.read().unwrap(), Decisions::default());
        for _ in 0..2 {
            file.write(&drained().to_text().unwrap()).unwrap();
            assert_eq!(file.read().unwrap(), drained());
        }
        assert_eq!(scratch.names(), ["made"]);
        let made = fs::read_dir(scratch.0.join("made")).unwrap().count();
        assert_eq!(made, 1);
        assert_eq!(
            file.read().unwrap().orders("impala", "impala1", 6).admin,
            Admin::Draining
        );
    }

    #[test]
    fn a_damaged_file_is_moved_aside_whole() {
        let scratch = Scratch::new("damaged");
        let file = DecisionsFile::of(&scratch.0, "lb1");
        let whole = drained().to_text().unwrap();
        let damaged = &whole[..whole.len() / 2];
        fs::write(file.path(), damaged).unwrap();
        assert!(matches!(file.read(), Err(ReadError::Damaged { .. })));
        let aside = file.move_aside().unwrap();
        assert_eq!(fs::read_to_string(aside).unwrap(), damaged);
        assert_eq!(file.read().unwrap(), Decisions::default());
    }

    #[test]
    fn what_is_no_file_or_endless_is_not_waited_for() {
        let scratch = Scratch::new("strange");
        let file = DecisionsFile::of(&scratch.0, "lb1");
        fs::create_dir(file.path()).unwrap();
        assert!(matches!(file.read(), Err(ReadError::Strange { .. })));
        fs::remove_dir(file.path()).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            file.path(),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(matches!(file.read(), Err(ReadError::Strange { .. })));
        fs::remove_file(file.path()).unwrap();
        File::create(file.path()).unwrap().set_len(LONGEST + 1).unwrap();
        assert!(matches!(file.read(), Err(ReadError::Strange { .. })));
    }

    #[test]
    fn where_nothing_can_be_written_the_earlier_decisions_stay() {
        let scratch = Scratch::new("blocked");
        let file = DecisionsFile::of(&scratch.0, "lb1");
        file.write(&drained().to_text().unwrap()).unwrap();
        // The name of what is to replace it is taken by a directory.
        fs::create_dir(scratch.0.join("lb1.decisions.json.new")).unwrap();
        let error = file.write(&Decisions::default().to_text().unwrap()).unwrap_err();
        assert!(error.to_string().contains("cannot be written"), "{error}");
        assert_eq!(file.read().unwrap(), drained());
    }
}
