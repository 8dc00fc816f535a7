//! A network interface, as datapath and network configuration both see it.

use std::fmt;

use super::config::XdpModeChoice;

/// A MAC address.
pub type Mac = [u8; 6];

/// Writes a MAC address as people know it.
pub fn format_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it is an Ethernet device.
    pub mac: Option<Mac>,
    /// The longest IP packet that it takes, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// The XDP program that it carries.
    pub xdp: Option<XdpAttached>,
}

/// An XDP program on an interface, whoever put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpAttached {
    /// How the kernel runs it; `None` for modes that we do not use (offloaded, several at once).
    pub mode: Option<Mode>,
    /// Its id.
    pub program: Option<u32>,
}

/// How the kernel runs an XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel has a buffer for the frame.
    Native,
    /// In the network stack, for drivers without XDP: works nearly everywhere, costs more.
    Generic,
}

impl Mode {
    /// The modes that a choice allows, the preferred one first.
    pub const fn allowed_by(choice: XdpModeChoice) -> &'static [Self] {
        match choice {
            XdpModeChoice::Auto => &[Self::Native, Self::Generic],
            XdpModeChoice::Native => &[Self::Native],
            XdpModeChoice::Generic => &[Self::Generic],
        }
    }
}

impl Mode {
    /// The mode in which all of these interfaces carry a program already, if there is one.
    pub fn common<'a>(interfaces: impl IntoIterator<Item = &'a Interface>) -> Option<Self> {
        let mut modes = interfaces
            .into_iter()
            .map(|interface| interface.xdp.as_ref()?.mode);
        let first = modes.next()??;
        modes.all(|mode| mode == Some(first)).then_some(first)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// An interface in order, with the program in native mode.
    pub(in crate::core) fn interface(index: u32) -> Interface {
        Interface {
            index,
            name: format!("eth{index}"),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            xdp: Some(XdpAttached {
                mode: Some(Mode::Native),
                program: Some(7),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_mode_is_one_that_all_have() {
        let common = |modes: &[Option<Mode>]| {
            let interfaces: Vec<Interface> = modes
                .iter()
                .map(|mode| Interface {
                    index: 1,
                    name: "eth0".into(),
                    mac: None,
                    mtu: 1500,
                    up: true,
                    xdp: mode.map(|mode| XdpAttached {
                        mode: Some(mode),
                        program: None,
                    }),
                })
                .collect();
            Mode::common(&interfaces)
        };
        let (native, generic) = (Some(Mode::Native), Some(Mode::Generic));
        for (modes, expected) in [
            (&[][..], None),
            (&[native], native),
            (&[generic, generic], generic),
            (&[native, generic], None),
            (&[native, None], None),
            (&[None, native], None),
        ] {
            assert_eq!(common(modes), expected, "{modes:?}");
        }
    }
}
