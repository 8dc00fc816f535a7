//! The manifest of a run: what has to be taken down, written down before it comes into being.
//!
//! One JSON value per line, appended only. Whoever takes the run down reads it; a thing that is listed but was never
//! made is simply not found then.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

const FILE_NAME: &str = "manifest";

/// One line of the manifest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Entry {
    /// The process that runs the lab.
    Owner {
        /// Its process id.
        pid: u32,
        /// What was started, for messages.
        command: String,
    },
    /// A network namespace is about to be made.
    Namespace(String),
    /// Something in this file or directory is about to be made, such as pins of BPF maps.
    Path(PathBuf),
    /// The lab is to outlive its owner.
    Kept,
}

/// All that the manifest of a run says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The process that runs the lab, for messages.
    pub(crate) owner: Option<String>,
    /// Network namespaces, by their full names.
    pub(crate) namespaces: Vec<String>,
    /// Files and directories outside of the run's own directory.
    pub(crate) paths: Vec<PathBuf>,
    /// Whether the lab is to outlive its owner.
    pub(crate) kept: bool,
}

impl Manifest {
    /// Reads the manifest in a run's directory; an absent one is empty.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE_NAME);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let mut manifest = Self::default();
        // A last line without its end was cut short when the owner died, before it made what the line announces.
        for line in text
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
        {
            match serde_json::from_str(line).with_context(|| format!("in line {line:?}"))? {
                Entry::Owner { pid, command } => manifest.owner = Some(format!("{command} (process {pid})")),
                Entry::Namespace(name) => manifest.namespaces.push(name),
                Entry::Path(path) => manifest.paths.push(path),
                Entry::Kept => manifest.kept = true,
            }
        }
        Ok(manifest)
    }
}

/// Appends to the manifest in a run's directory.
pub(crate) fn append(directory: &Path, entries: &[Entry]) -> Result<()> {
    let path = directory.join(FILE_NAME);
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry)?;
        lines.push(b'\n');
    }
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(&lines))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(directory.path()).unwrap(), Manifest::default());
        append(
            directory.path(),
            &[Entry::Owner {
                pid: 7,
                command: "demo".to_owned(),
            }],
        )
        .unwrap();
        append(
            directory.path(),
            &[
                Entry::Namespace("lb-x-switch".to_owned()),
                Entry::Namespace("lb-x-client1".to_owned()),
            ],
        )
        .unwrap();
        append(
            directory.path(),
            &[Entry::Path("/sys/fs/bpf/x".into()), Entry::Kept],
        )
        .unwrap();
        let expected = Manifest {
            owner: Some("demo (process 7)".to_owned()),
            namespaces: vec!["lb-x-switch".to_owned(), "lb-x-client1".to_owned()],
            paths: vec!["/sys/fs/bpf/x".into()],
            kept: true,
        };
        assert_eq!(Manifest::read(directory.path()).unwrap(), expected);
    }

    #[test]
    fn a_line_cut_short_by_the_owners_death_is_left_out() {
        let manifest = Manifest::parse("{\"namespace\":\"lb-x-switch\"}\n{\"namespace\":\"lb-x-cl").unwrap();
        assert_eq!(manifest.namespaces, ["lb-x-switch"]);
    }

    #[test]
    fn a_damaged_line_is_an_error_that_shows_it() {
        let error = Manifest::parse("{\"namespace\":\"lb-x-switch\"}\nnonsense\n").unwrap_err();
        assert!(format!("{error:#}").contains("nonsense"), "{error:#}");
    }
}
