//! What apt and dpkg know, and what is asked of them.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsString,
    process::Command,
};

use anyhow::Result;

use crate::{cache::Lock, command};

/// A network that is not there is to be noticed at once, not after minutes of retries.
pub(super) const FAIL_FAST: [&str; 4] = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20"];

/// Whether this system is one of apt's.
pub(super) fn is_there() -> bool {
    ["apt-get", "apt-cache", "dpkg", "dpkg-query"]
        .iter()
        .all(|name| command::find_program(name).is_some())
}

/// A package as the archive offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) package: String,
    pub(super) version: String,
    /// In bytes.
    pub(super) size: u64,
    /// The names of the packages that it depends on; of alternatives the first.
    pub(super) depends: Vec<String>,
}

/// An offer for tests.
#[cfg(test)]
pub(super) fn offer(package: &str, version: &str, depends: &[&str]) -> Offer {
    Offer {
        package: package.into(),
        version: version.into(),
        size: 1,
        depends: depends.iter().map(|&name| name.into()).collect(),
    }
}

/// What apt would install for each of these names. Names that it does not know are missing from the answer.
pub(super) fn offers<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Offer>> {
    // It complains about names that it does not know, and answers for the others nevertheless.
    let output = command::output(
        Command::new("apt-cache")
            .args(["show", "--no-all-versions"])
            .args(names),
    )?;
    Ok(parse_offers(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_offers(text: &str) -> Vec<Offer> {
    text.split("\n\n")
        .filter_map(|paragraph| {
            let field = |name: &str| {
                paragraph
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim))
            };
            Some(Offer {
                package: field("Package")?.into(),
                version: field("Version")?.into(),
                size: field("Size")?.parse().ok()?,
                depends: field("Depends").map(parse_depends).unwrap_or_default(),
            })
        })
        .collect()
}

/// The package names in `libc6 (>= 2.34), gcc:any | clang`.
fn parse_depends(field: &str) -> Vec<String> {
    field
        .split(',')
        .filter_map(|dependency| dependency.split(['|', '(', ':']).next())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The packages and all that they depend on, as far as that is needed.
pub(super) fn with_dependencies(
    packages: &[&str],
    is_needed: impl Fn(&str) -> bool,
    offers: impl Fn(&[String]) -> Result<Vec<Offer>>,
) -> Result<Vec<Offer>> {
    let mut selected: Vec<Offer> = Vec::new();
    let mut asked = HashSet::new();
    let mut names: Vec<String> = packages.iter().map(|&name| name.into()).collect();
    while !names.is_empty() {
        asked.extend(names.iter().cloned());
        let found = offers(&names)?;
        names = found
            .iter()
            .flat_map(|offer| &offer.depends)
            .filter(|name| is_needed(name) && !asked.contains(*name))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .cloned()
            .collect();
        selected.extend(found);
    }
    Ok(selected)
}

/// The names of the installed packages.
pub(super) fn installed() -> Result<HashSet<String>> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"]);
    Ok(parse_installed(&command::capture(&mut query)?))
}

fn parse_installed(text: &str) -> HashSet<String> {
    text.lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(str::to_owned)
        .collect()
}

/// Fetches the lists of packages anew.
pub(super) fn update(lock: &Lock) -> Result<()> {
    // `--error-on=any`: by default apt-get calls it success when no list could be fetched.
    run_as_root(lock, &["update", "-qq", "--error-on=any"])
}

/// Installs packages, and removes none for it.
pub(super) fn install(lock: &Lock, packages: &[&str]) -> Result<()> {
    let options = [
        "install",
        "-qq",
        "--yes",
        "--no-remove",
        "--no-install-recommends",
    ];
    run_as_root(lock, &[&options, packages].concat())
}

fn run_as_root(lock: &Lock, arguments: &[&str]) -> Result<()> {
    let variables = [("DEBIAN_FRONTEND", OsString::from("noninteractive"))];
    // Another package manager may be at work for a while.
    let options = FAIL_FAST.iter().chain(&["-o", "DPkg::Lock::Timeout=120"]);
    let mut command = command::as_root(&variables, "apt-get", options.chain(arguments))?;
    println!("setup: {}", command::display(&command));
    lock.capture(&mut command)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_read_from_the_fields_that_matter() {
        let text = "Package: rustc-web\nVersion: 1.96.0+dfsg1-1~deb12u2\nArchitecture: amd64\n\
            Depends: libc6 (>= 2.34), libstd-rust-web-dev (= 1.96.0), gcc:any | clang, libc-dev\n\
            Description: Rust systems programming language\n Depends: not a field\nSize: 4450500\n\n\
            Package: rust-web-src\nVersion: 1.96.0\nSize: 45012756\n\n";
        let expected = [
            Offer {
                package: "rustc-web".into(),
                version: "1.96.0+dfsg1-1~deb12u2".into(),
                size: 4_450_500,
                depends: ["libc6", "libstd-rust-web-dev", "gcc", "libc-dev"]
                    .map(String::from)
                    .into(),
            },
            Offer {
                package: "rust-web-src".into(),
                version: "1.96.0".into(),
                size: 45_012_756,
                depends: Vec::new(),
            },
        ];
        assert_eq!(parse_offers(text), expected);
        assert_eq!(parse_offers(""), []);
    }

    #[test]
    fn removed_packages_whose_configuration_is_left_are_not_installed() {
        let installed = parse_installed("libc6 installed\nethtool config-files\nlibz3-4 half-installed\n");
        assert_eq!(installed, HashSet::from(["libc6".to_owned()]));
    }
}
