//! Programs of the system that building, tests and demo use.

use std::fmt;

use anyhow::{Context, Result, bail};

use super::{Scope, apt};
use crate::{cache::Lock, command};

/// A package, named as on Debian, and how to see whether what it offers is there.
pub(super) struct Package {
    name: &'static str,
    /// The program that tells; it may come from elsewhere than from the package.
    program: &'static str,
    /// What it is for.
    purpose: &'static str,
    needed: Needed,
}

#[derive(PartialEq, Eq)]
enum Needed {
    Always,
    InLab,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "gcc",
        program: "cc",
        purpose: "links Rust programs",
        needed: Needed::Always,
    },
    Package {
        name: "libc6-dev",
        program: "cc",
        purpose: "links Rust programs",
        needed: Needed::Always,
    },
    Package {
        name: "curl",
        program: "curl",
        purpose: "looks at coordinators of a demo that is kept",
        needed: Needed::InLab,
    },
    Package {
        name: "iproute2",
        program: "ip",
        purpose: "looks into the lab's network",
        needed: Needed::InLab,
    },
    Package {
        name: "iperf3",
        program: "iperf3",
        purpose: "sends bulk data through the balancer",
        needed: Needed::InLab,
    },
    Package {
        name: "keepalived",
        program: "keepalived",
        purpose: "is the other side of VRRP",
        needed: Needed::InLab,
    },
    Package {
        name: "systemd",
        program: "systemd-analyze",
        purpose: "judges the unit file",
        needed: Needed::InLab,
    },
];

/// The modules that make a Python environment are a package of their own on Debian.
static PYTHON: Package = Package {
    name: "python3-venv",
    program: "python3",
    purpose: "runs the Impala client",
    needed: Needed::InLab,
};

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "package {} ({} {})", self.name, self.program, self.purpose)
    }
}

/// The packages that have to be installed.
pub(super) fn missing(scope: Scope<'_>, environment_is_missing: bool) -> Vec<&'static Package> {
    let mut missing: Vec<_> = PACKAGES
        .iter()
        .filter(|package| match package.needed {
            Needed::Always => true,
            Needed::InLab => scope >= Scope::Lab,
        })
        .filter(|package| command::find_program(package.program).is_none())
        .collect();
    if environment_is_missing && !super::python::can_make_environments() {
        missing.push(&PYTHON);
    }
    missing
}

/// Installs packages where apt is, and says what to install elsewhere.
pub(super) fn install(lock: &Lock, packages: &[&Package]) -> Result<()> {
    let names: Vec<_> = packages.iter().map(|package| package.name).collect();
    if !apt::is_there() {
        bail!(
            "this system has no apt, so install these in its own way (the names are Debian's): {}",
            names.join(", ")
        );
    }
    // Some foreign source may be out of order without any harm to what is installed here.
    let updated = apt::update(lock);
    apt::install(lock, &names)
        .map_err(|error| updated.err().unwrap_or(error))
        .context("packages could not be installed")
}
