//! Attaching the program to interfaces, and replacing an earlier run's program without a gap.

use std::{io, path::Path};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};

use super::{
    Datapath, Pins,
    error::{DatapathError, os_error},
    xdp,
};
use crate::core::{
    config::XdpModeChoice,
    interface::{Interface, Mode},
};

/// The kernel's answer when a link's interface has been deleted, whatever has its name now.
const ENOLINK: i32 = 67;

/// The program on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The interface's name.
    pub interface: String,
    /// How the kernel runs the program there.
    pub mode: Mode,
    /// Whether it took the place of an earlier run's program.
    pub replaced: bool,
}

impl Datapath {
    /// Attaches the program to `interface` and pins the link.
    ///
    /// Where an earlier run left its link, the program behind it is replaced atomically: no packet meets an interface
    /// without a program. Only a change of the mode that the operator asks for detaches in between.
    pub fn attach(
        &mut self,
        interface: &Interface,
        choice: XdpModeChoice,
        pins: &Pins,
    ) -> Result<Attachment, DatapathError> {
        let pin = pins.link(&interface.name);
        let modes = Mode::allowed_by(choice);
        match interface.xdp.as_ref().and_then(|attached| attached.mode) {
            Some(mode) if modes.contains(&mode) && self.replace(&pin)? => {
                return Ok(Attachment {
                    interface: interface.name.clone(),
                    mode,
                    replaced: true,
                });
            }
            // Another mode than asked for, or the pin of an interface that has gone in the meantime.
            _ => pins.detach(&interface.name)?,
        }
        let (link, mode) = attach_anew(xdp(&mut self.ebpf)?, interface, modes)?;
        link.pin(&pin).map_err(|error| DatapathError::Pin {
            path: pin,
            source: Box::new(error),
        })?;
        Ok(Attachment {
            interface: interface.name.clone(),
            mode,
            replaced: false,
        })
    }

    /// Puts the program behind a pinned link. `false` when there is no such link, or its interface is gone.
    fn replace(&mut self, pin: &Path) -> Result<bool, DatapathError> {
        let unusable = |error| DatapathError::Link {
            path: pin.to_owned(),
            source: Box::new(error),
        };
        let link = match PinnedLink::from_pin(pin) {
            Ok(pinned) => FdLink::from(pinned),
            Err(error) if is(&error, io::ErrorKind::NotFound) => return Ok(false),
            Err(error) => return Err(unusable(error)),
        };
        let link = XdpLink::try_from(link).map_err(unusable)?;
        let program = xdp(&mut self.ebpf)?;
        match program.attach_to_link(link) {
            Ok(id) => {
                // The pin keeps the link; our own descriptor of it may go.
                drop(program.take_link(id)?);
                Ok(true)
            }
            Err(error) if os_error(&error).and_then(io::Error::raw_os_error) == Some(ENOLINK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

const fn flags(mode: Mode) -> XdpMode {
    match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    }
}

fn attach_anew(
    program: &mut Xdp,
    interface: &Interface,
    modes: &[Mode],
) -> Result<(FdLink, Mode), DatapathError> {
    let mut tried = Vec::new();
    for &mode in modes {
        match program.attach_to_if_index(interface.index, flags(mode)) {
            Ok(id) => {
                let link =
                    FdLink::try_from(program.take_link(id)?).map_err(|error| DatapathError::Attach {
                        interface: interface.name.clone(),
                        tried: vec![format!(
                            "{mode}: the kernel made no BPF link ({error}); Linux 6.1 or newer is needed"
                        )],
                    })?;
                return Ok((link, mode));
            }
            Err(error) if is_occupied(&error) => {
                return Err(DatapathError::Occupied {
                    interface: interface.name.clone(),
                    program: interface.xdp.as_ref().and_then(|attached| attached.program),
                });
            }
            Err(error) => {
                let reason = os_error(&error).map_or_else(|| error.to_string(), ToString::to_string);
                tried.push(format!("{mode}: {reason}"));
            }
        }
    }
    Err(DatapathError::Attach {
        interface: interface.name.clone(),
        tried,
    })
}

/// The kernel answers EBUSY to a second link, EEXIST to another mode beside a program.
fn is_occupied(error: &ProgramError) -> bool {
    is(error, io::ErrorKind::ResourceBusy) || is(error, io::ErrorKind::AlreadyExists)
}

fn is(error: &(dyn std::error::Error + 'static), kind: io::ErrorKind) -> bool {
    os_error(error).is_some_and(|error| error.kind() == kind)
}
