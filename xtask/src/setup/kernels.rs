//! Kernels to test on, and the shell that runs the tests there: files in the cache, installed nowhere.
//!
//! Debian builds each kernel in two flavours from the same source. The one for clouds has the same BPF options, fewer
//! drivers and a third of the size.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{
    apt::{self, Offer},
    download,
};
use crate::{
    cache::{self, Cache, Lock},
    command,
    kernels::Kernel,
};

/// The directory in the cache.
const DIRECTORY: &str = "kernels";

/// The package that has a shell and the usual programs in one file without libraries.
const BUSYBOX: &str = "busybox-static";

/// The image of a kernel of this series, if there is one.
pub(super) fn image(cache: &Cache, kernel: Kernel) -> Option<PathBuf> {
    cache::read_directory(&cache.path(DIRECTORY))
        .ok()?
        .into_iter()
        .filter(|file| is_image(file, kernel))
        .max()
}

fn is_image(file: &Path, kernel: Kernel) -> bool {
    file.file_name()
        .and_then(|name| name.to_str()?.strip_prefix("vmlinuz-"))
        .is_some_and(|release| kernel.has(release))
}

/// Where the shell is, once installed.
pub(super) fn busybox(cache: &Cache) -> PathBuf {
    cache.path(DIRECTORY).join("busybox")
}

/// Those of the kernels that have no image.
pub(super) fn missing(cache: &Cache, kernels: &[Kernel]) -> Vec<Kernel> {
    let is_missing = |kernel: &Kernel| image(cache, *kernel).is_none();
    kernels.iter().copied().filter(is_missing).collect()
}

/// Downloads the kernels, and the shell with them.
pub(super) fn install(cache: &Cache, lock: &Lock, kernels: &[Kernel]) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the tests on other kernels are made for x86-64, and this is another architecture");
    }
    let directory = cache.path(DIRECTORY);
    let unpacked = download::unpacked(cache, lock, DIRECTORY, || select(kernels)).with_context(|| {
        format!(
            "kernels to test on could not be downloaded; images named vmlinuz-<release> and a static busybox, put into \
             {}, would do",
            directory.display()
        )
    })?;
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    for file in cache::read_directory(&unpacked.join("boot")).unwrap_or_default() {
        if let Some(name) = file
            .file_name()
            .filter(|_| kernels.iter().any(|kernel| is_image(&file, *kernel)))
        {
            cache::rename(&file, &directory.join(name))?;
        }
    }
    // Debian 12 has programs in /bin, later releases in /usr/bin.
    let programs = ["bin/busybox", "usr/bin/busybox"].map(|program| unpacked.join(program));
    if let Some(program) = programs.iter().find(|program| program.is_file()) {
        cache::rename(program, &busybox(cache))?;
    }
    command::remove_directory(&unpacked)
}

/// The packages that have the kernels and the shell.
fn select(kernels: &[Kernel]) -> Result<Vec<Offer>> {
    let offers = |names: &[String]| apt::offers(names.iter().map(String::as_str));
    let mut packages = offers(&[BUSYBOX.into()])?;
    if packages.is_empty() {
        bail!("apt offers no {BUSYBOX}");
    }
    for &kernel in kernels {
        packages.push(find(kernel, offers)?);
    }
    Ok(packages)
}

/// The package that has the kernel. Its name is in the dependencies of a package whose name does not change with each version.
fn find(kernel: Kernel, offers: impl Fn(&[String]) -> Result<Vec<Offer>>) -> Result<Offer> {
    let series = kernel.series();
    // A release's own kernel goes by the shorter name, one that it offers besides has its series in the name.
    let names = [
        format!("linux-image-{series}-cloud-amd64"),
        "linux-image-cloud-amd64".to_owned(),
    ];
    let image = offers(&names)?
        .into_iter()
        .filter(|offer| kernel.has(&offer.version))
        .flat_map(|offer| offer.depends)
        .find(|name| name.starts_with("linux-image-"));
    let package = match image {
        Some(image) => offers(&[image])?.pop(),
        None => None,
    };
    package.with_context(|| {
        format!(
            "apt offers no Linux {series} (asked for {}); Debian 12 has it",
            names.join(" and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::apt::offer;

    fn find_in(archive: &[Offer], kernel: Kernel) -> Result<String> {
        let offers = |names: &[String]| {
            let offered = |offer: &&Offer| names.contains(&offer.package);
            Ok(archive.iter().filter(offered).cloned().collect())
        };
        find(kernel, offers).map(|offer| offer.package)
    }

    #[test]
    fn kernels_are_found_in_the_releases_that_have_them() {
        let own = "linux-image-cloud-amd64";
        let beside = "linux-image-6.12-cloud-amd64";
        let (old, new) = (
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12.117-cloud-amd64",
        );
        let debian_12 = [
            offer(own, "6.1.192-2", &[old]),
            offer(old, "6.1.192-2", &["kmod"]),
            offer(beside, "6.12.117-1", &[new]),
            offer(new, "6.12.117-1", &["kmod"]),
        ];
        assert_eq!(find_in(&debian_12, Kernel::V6_1).unwrap(), old);
        assert_eq!(find_in(&debian_12, Kernel::V6_12).unwrap(), new);

        let debian_13 = [offer(own, "6.12.117-1", &[new]), offer(new, "6.12.117-1", &[])];
        assert_eq!(find_in(&debian_13, Kernel::V6_12).unwrap(), new);
        let error = find_in(&debian_13, Kernel::V6_1).unwrap_err().to_string();
        assert!(error.contains("no Linux 6.1 "), "{error}");
    }

    #[test]
    fn an_image_is_recognised_by_its_name() {
        let is = |name: &str, kernel| is_image(&Path::new("/cache/kernels").join(name), kernel);
        assert!(is("vmlinuz-6.1.0-56-cloud-amd64", Kernel::V6_1));
        assert!(is("vmlinuz-6.12.117+deb12-cloud-amd64", Kernel::V6_12));
        assert!(!is("vmlinuz-6.12.117+deb12-cloud-amd64", Kernel::V6_1));
        assert!(!is("System.map-6.1.0-56-cloud-amd64", Kernel::V6_1));
    }
}
