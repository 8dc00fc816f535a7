//! Attaching the program to interfaces, and replacing an earlier run's program without a gap.

use std::{io, path::Path};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    loaded_programs,
    xdp::XdpLink,
};
use aya_obj::programs::XdpAttachType;
use lb_common::layout::VERSION;

use super::{
    Datapath, Pins,
    error::{DatapathError, os_error},
    pins::detach_link,
    xdp,
};
use crate::core::{
    config::XdpModeChoice,
    interface::{Interface, Mode, XdpAttached},
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
    /// The preferred modes that the kernel refused, with its reasons.
    pub refused: Vec<String>,
}

impl Datapath {
    /// Attaches the program to `interface` and pins the link.
    ///
    /// Where an earlier run left its link, the program behind it is replaced atomically: no packet meets an interface
    /// without a program. Only a change of the mode that the operator asks for detaches in between, and if the new mode
    /// turns out to be impossible, the earlier program is attached again as it was.
    pub fn attach(
        &mut self,
        interface: &Interface,
        choice: XdpModeChoice,
        pins: &Pins,
    ) -> Result<Attachment, DatapathError> {
        let modes = Mode::allowed_by(choice);
        let pin = pins.link(&interface.name);
        let Some((mode, link)) = earlier_link(&pin, interface.xdp.as_ref())? else {
            if interface.xdp.is_some()
                && let Some(found) = pins.other_version(&interface.name)?
            {
                return Err(DatapathError::OtherVersion {
                    interface: interface.name.clone(),
                    found,
                    expected: VERSION,
                });
            }
            // What may be pinned here belongs to an interface that has gone, or has another name now.
            detach_link(&pin)?;
            return self.attach_anew(interface, modes, &pin);
        };
        if modes.contains(&mode) {
            if self.replace(link, &pin)? {
                let interface = interface.name.clone();
                return Ok(Attachment {
                    interface,
                    mode,
                    replaced: true,
                    refused: Vec::new(),
                });
            }
            detach_link(&pin)?;
            return self.attach_anew(interface, modes, &pin);
        }
        let mut earlier = interface
            .xdp
            .as_ref()
            .and_then(|attached| earlier_program(attached).transpose())
            .transpose()?;
        drop(link);
        detach_link(&pin)?;
        let attached = self.attach_anew(interface, modes, &pin);
        if let (Err(_), Some(earlier)) = (&attached, &mut earlier) {
            attach_in_one_of(earlier, interface, &[mode], &pin)?;
        }
        attached
    }

    fn attach_anew(
        &mut self,
        interface: &Interface,
        modes: &[Mode],
        pin: &Path,
    ) -> Result<Attachment, DatapathError> {
        attach_in_one_of(xdp(&mut self.ebpf)?, interface, modes, pin)
    }

    /// Puts the program behind a link. `false` when its interface is gone.
    fn replace(&mut self, link: FdLink, pin: &Path) -> Result<bool, DatapathError> {
        let link = XdpLink::try_from(link).map_err(|error| DatapathError::Link {
            path: pin.to_owned(),
            source: Box::new(error),
        })?;
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

/// The link that an earlier run pinned, if it is what the interface carries, and in which mode.
fn earlier_link(pin: &Path, attached: Option<&XdpAttached>) -> Result<Option<(Mode, FdLink)>, DatapathError> {
    let unusable = |error| DatapathError::Link {
        path: pin.to_owned(),
        source: Box::new(error),
    };
    let link = match PinnedLink::from_pin(pin) {
        Ok(pinned) => FdLink::from(pinned),
        Err(error) if is(&error, io::ErrorKind::NotFound) => return Ok(None),
        Err(error) => return Err(unusable(error)),
    };
    let program = link.info().map_err(unusable)?.program_id();
    let here = attached.filter(|attached| attached.program == Some(program));
    Ok(here.and_then(|attached| attached.mode).map(|mode| (mode, link)))
}

/// A handle on the program that an interface carries, which keeps it alive.
fn earlier_program(attached: &XdpAttached) -> Result<Option<Xdp>, DatapathError> {
    let Some(id) = attached.program else {
        return Ok(None);
    };
    for program in loaded_programs() {
        let program = program?;
        if program.id() == id {
            let earlier = Xdp::from_program_info(program, "earlier".into(), XdpAttachType::Interface)?;
            return Ok(Some(earlier));
        }
    }
    Ok(None)
}

const fn flags(mode: Mode) -> XdpMode {
    match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    }
}

/// Attaches a program in the first of these modes that the kernel accepts, and pins the link.
fn attach_in_one_of(
    program: &mut Xdp,
    interface: &Interface,
    modes: &[Mode],
    pin: &Path,
) -> Result<Attachment, DatapathError> {
    let name = &interface.name;
    let mut refused = Vec::new();
    for &mode in modes {
        match program.attach_to_if_index(interface.index, flags(mode)) {
            Ok(id) => {
                let link =
                    FdLink::try_from(program.take_link(id)?).map_err(|error| DatapathError::Attach {
                        interface: name.clone(),
                        tried: vec![format!(
                            "{mode}: the kernel made no BPF link ({error}); Linux 6.1 or newer is needed"
                        )],
                    })?;
                link.pin(pin).map_err(|error| DatapathError::Pin {
                    path: pin.to_owned(),
                    source: Box::new(error),
                })?;
                return Ok(Attachment {
                    interface: name.clone(),
                    mode,
                    replaced: false,
                    refused,
                });
            }
            Err(error) if is_occupied(&error) => {
                return Err(DatapathError::Occupied {
                    interface: name.clone(),
                    program: interface.xdp.as_ref().and_then(|attached| attached.program),
                });
            }
            Err(error) => {
                let reason = os_error(&error).map_or_else(|| error.to_string(), ToString::to_string);
                refused.push(format!("{mode}: {reason}"));
            }
        }
    }
    Err(DatapathError::Attach {
        interface: name.clone(),
        tried: refused,
    })
}

/// The kernel answers EBUSY to a second link, EEXIST to another mode beside a program.
fn is_occupied(error: &ProgramError) -> bool {
    is(error, io::ErrorKind::ResourceBusy) || is(error, io::ErrorKind::AlreadyExists)
}

fn is(error: &(dyn std::error::Error + 'static), kind: io::ErrorKind) -> bool {
    os_error(error).is_some_and(|error| error.kind() == kind)
}
