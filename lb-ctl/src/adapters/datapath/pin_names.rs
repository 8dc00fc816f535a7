//! Names of nodes and interfaces as names of files in bpffs, which refuses dots (they are reserved, says
//! kernel/bpf/inode.c). Neither name can have a colon, so dots become colons and back.

const LINK_PREFIX: &str = "link-";
const VERSION_PREFIX: char = 'v';

/// The directory of a node, below the one of all nodes.
pub(super) fn directory_of_node(node: &str) -> String {
    node.replace('.', ":")
}

/// The node whose directory has this name.
pub(super) fn node_of_directory(name: &str) -> String {
    name.replace(':', ".")
}

/// The directory of a layout version, below that of a node.
pub(super) fn directory_of_version(version: u32) -> String {
    format!("{VERSION_PREFIX}{version}")
}

/// The layout version whose directory has this name; `None` if it is something else's.
pub(super) fn version_of(name: &str) -> Option<u32> {
    name.strip_prefix(VERSION_PREFIX)?.parse().ok()
}

/// Whether this is the name of the directory of some layout version.
pub(super) fn is_version(name: &str) -> bool {
    version_of(name).is_some()
}

/// The pin of the link of an interface.
pub(super) fn pin_of_interface(interface: &str) -> String {
    format!("{LINK_PREFIX}{}", interface.replace('.', ":"))
}

/// The interface whose link has a pin of this name; `None` if it is not a link's.
pub(super) fn interface_of_pin(name: &str) -> Option<String> {
    name.strip_prefix(LINK_PREFIX)
        .map(|interface| interface.replace(':', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_survive() {
        for name in ["lb1", "lb1.example.com", "eth0.100"] {
            assert!(!directory_of_node(name).contains('.'));
            assert_eq!(node_of_directory(&directory_of_node(name)), name);
            assert!(!pin_of_interface(name).contains('.'));
            assert_eq!(interface_of_pin(&pin_of_interface(name)).as_deref(), Some(name));
        }
        assert_eq!(interface_of_pin("SLOTS"), None);
    }

    #[test]
    fn versions_are_numbers() {
        assert!(is_version(&directory_of_version(12)));
        for name in ["v", "vx", "1", "victim"] {
            assert!(!is_version(name), "{name}");
        }
    }
}
