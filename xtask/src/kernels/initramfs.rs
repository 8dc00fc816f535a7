//! The machine's files: an archive that the kernel unpacks into memory and starts `/init` from.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    Job,
    console::{PROGRAMS, first_process, in_machine},
};
use crate::command;

/// The archive, in a file without a name: it is gone when nobody has it open any more, however that comes about.
pub(crate) struct Initramfs {
    pub(super) file: File,
    /// In bytes.
    pub(super) size: u64,
}

impl Initramfs {
    /// Packs what the job needs.
    pub(crate) fn pack(job: &Job, busybox: &Path) -> Result<Self> {
        let mut libraries = BTreeSet::new();
        for program in &job.programs {
            libraries.extend(libraries_of(program)?);
        }
        let mut file = tempfile::tempfile().context("cannot create a temporary file")?;
        let mut archive = Archive::new(BufWriter::new(&mut file));
        for directory in ["/dev", "/proc", "/sys", "/tmp", PROGRAMS] {
            archive.directory(directory)?;
        }
        archive.program("/init", first_process(job).as_bytes())?;
        archive.copy("/bin/busybox", busybox)?;
        for program in &job.programs {
            archive.copy(&in_machine(program), program)?;
        }
        for library in libraries {
            let path = library
                .to_str()
                .context("the path of a shared library is not UTF-8")?;
            archive.copy(path, &library)?;
        }
        archive.finish().context("cannot write a temporary file")?;
        let size = file.metadata().context("cannot examine a temporary file")?.len();
        Ok(Self { file, size })
    }
}

/// The shared libraries that a program is linked to, its loader among them.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = command::capture(Command::new("ldd").arg(program).env("LC_ALL", "C"))?;
    parse_libraries(&listed).with_context(|| format!("cannot run {} elsewhere", program.display()))
}

/// Reads lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f75)` and
/// `/lib64/ld-linux-x86-64.so.2 (0x00007f75)`; the kernel's own `linux-vdso.so.1` has no path.
fn parse_libraries(listed: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in listed.lines().map(str::trim) {
        if let Some((library, "not found")) = line.split_once(" => ") {
            bail!("the shared library {library} is missing");
        }
        let path = line.split_ascii_whitespace().find(|word| word.starts_with('/'));
        libraries.extend(path.map(PathBuf::from));
    }
    Ok(libraries)
}

/// An archive in the format `newc` of cpio, which is described in the kernel's `early-userspace/buffer-format.rst`.
struct Archive<W> {
    out: W,
    inode: u32,
    directories: BTreeSet<String>,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const NOTHING: u32 = 0;

impl<W: Write> Archive<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            inode: 0,
            directories: BTreeSet::new(),
        }
    }

    /// Adds a directory and those above it, which have to come first.
    fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let directory = &path[..end];
            if !directory.is_empty() && self.directories.insert(directory.into()) {
                self.entry(directory, DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file that may be executed.
    fn program(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        self.entry(path.trim_start_matches('/'), PROGRAM, content)
    }

    fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.program(path, &content)
            .with_context(|| format!("cannot pack {}", from.display()))
    }

    fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", NOTHING, &[])?;
        self.out.flush()
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let too_big = |_| io::Error::other("more than the format's 4 GiB");
        let size = u32::try_from(content.len()).map_err(too_big)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_big)?;
        // Inode, mode, owner, group, links, time, size, device (2), special device (2), size of the name, checksum.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = b"070701".to_vec();
        for field in fields {
            header.extend(format!("{field:08x}").bytes());
        }
        header.extend(name.bytes().chain([0]));
        self.padded(&header)?;
        self.padded(content)
    }

    /// Header and content each end at a multiple of four bytes.
    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.out.write_all(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_libraries_are_read_from_what_ldd_prints() {
        let listed = "\tlinux-vdso.so.1 (0x00007f7587629000)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f7586e1e000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f758762b000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_libraries(listed).unwrap(), expected.map(PathBuf::from));
        assert!(parse_libraries("\tstatically linked\n").unwrap().is_empty());
        let error = parse_libraries("\tlibx.so.1 => not found\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("libx.so.1 is missing"), "{error}");
    }

    /// Names and contents of an archive's entries, read by the rules of the format.
    fn entries(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        while !archive.is_empty() {
            let field = |index: usize| {
                let digits = &archive[6 + 8 * index..][..8];
                u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            assert_eq!(&archive[..6], b"070701");
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let content = (110 + name_size).next_multiple_of(4);
            let name = String::from_utf8(archive[110..110 + name_size - 1].into()).unwrap();
            entries.push((name, mode, archive[content..content + size].into()));
            archive = &archive[(content + size).next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn an_archive_has_each_directory_once_and_before_its_files() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.directory("/proc").unwrap();
        archive.program("/init", b"#!").unwrap();
        archive.program("/lib/x/a.so", b"abcde").unwrap();
        archive.program("/lib/x/b.so", b"").unwrap();
        archive.finish().unwrap();
        let expected = [
            ("proc", DIRECTORY, ""),
            ("init", PROGRAM, "#!"),
            ("lib", DIRECTORY, ""),
            ("lib/x", DIRECTORY, ""),
            ("lib/x/a.so", PROGRAM, "abcde"),
            ("lib/x/b.so", PROGRAM, ""),
            ("TRAILER!!!", NOTHING, ""),
        ];
        let expected = expected.map(|(name, mode, content)| (name.into(), mode, content.into()));
        assert_eq!(entries(&bytes), expected);
    }
}
