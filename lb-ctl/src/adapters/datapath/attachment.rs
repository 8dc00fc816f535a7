//! Attaching the program to interfaces, and replacing an earlier run's program without a gap.

use std::{collections::BTreeMap, io, path::Path};

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
use crate::core::interface::{Interface, Mode, XdpAttached};

/// The kernel's answer when a link's interface has been deleted, whatever has its name now.
const ENOLINK: i32 = 67;

/// The program on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The interface's name.
    pub interface: String,
    /// Its index, which tells it from a later one of that name.
    pub index: u32,
    /// How the kernel runs the program there.
    pub mode: Mode,
    /// Whether it took the place of an earlier run's program.
    pub replaced: bool,
    /// The preferred modes that the kernel refused, with its reasons.
    pub refused: Vec<String>,
}

impl Datapath {
    /// Attaches the program to all of these interfaces, in the first of these modes that is possible on each of them, and pins
    /// the links. A mode that all interfaces already have is preferred.
    ///
    /// One mode for all, because a frame leaves through another interface as it came in: what a driver has received can only
    /// be given to another driver that knows XDP. `attached` holds at any time, also after an error, what is attached.
    pub fn attach(
        &mut self,
        interfaces: &[Interface],
        modes: &[Mode],
        pins: &Pins,
        attached: &mut Vec<Attachment>,
    ) -> Result<(), DatapathError> {
        let present = Mode::common(interfaces);
        let mut modes = modes.to_vec();
        modes.sort_by_key(|&mode| Some(mode) != present);
        let mut refused = BTreeMap::<&str, Vec<String>>::new();
        for mode in modes {
            match self.attach_all(interfaces, mode, pins, attached) {
                Ok(()) => {
                    for attachment in attached.iter_mut() {
                        if let Some(reasons) = refused.remove(attachment.interface.as_str()) {
                            attachment.refused = reasons;
                        }
                    }
                    return Ok(());
                }
                Err((interface, DatapathError::Attach { tried, .. })) => {
                    refused.entry(&interface.name).or_default().extend(tried);
                }
                Err((_, error)) => return Err(error),
            }
        }
        let (interface, tried) = refused.pop_first().unwrap_or_default();
        Err(DatapathError::Attach {
            interface: interface.to_owned(),
            tried,
        })
    }

    /// Attaches the program to all of these interfaces in one mode. An error names the interface on which it is impossible.
    fn attach_all<'a>(
        &mut self,
        interfaces: &'a [Interface],
        mode: Mode,
        pins: &Pins,
        attached: &mut Vec<Attachment>,
    ) -> Result<(), (&'a Interface, DatapathError)> {
        for interface in interfaces {
            let mut attachment = self
                .attach_one(interface, mode, pins)
                .map_err(|error| (interface, error))?;
            if let Some(index) = attached
                .iter()
                .position(|earlier| earlier.interface == interface.name)
            {
                // Another mode has been tried before.
                attachment.replaced |= attached.swap_remove(index).replaced;
            }
            attached.push(attachment);
        }
        Ok(())
    }

    /// Attaches the program to an interface and pins the link.
    ///
    /// Where an earlier run left its link, the program behind it is replaced atomically: no packet meets an interface
    /// without a program. Only a change of the mode that the operator asks for detaches in between, and if the new mode
    /// turns out to be impossible, the earlier program is attached again as it was.
    fn attach_one(
        &mut self,
        interface: &Interface,
        mode: Mode,
        pins: &Pins,
    ) -> Result<Attachment, DatapathError> {
        let pin = &pins.link(&interface.name);
        let Some((earlier_mode, link)) = earlier_link(pin, interface.xdp.as_ref())? else {
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
            detach_link(pin)?;
            return attach_anew(xdp(&mut self.ebpf)?, interface, mode, pin);
        };
        if mode == earlier_mode {
            if self.replace(link, pin)? {
                return Ok(Attachment {
                    interface: interface.name.clone(),
                    index: interface.index,
                    mode,
                    replaced: true,
                    refused: Vec::new(),
                });
            }
            detach_link(pin)?;
            return attach_anew(xdp(&mut self.ebpf)?, interface, mode, pin);
        }
        let earlier = interface
            .xdp
            .as_ref()
            .and_then(|attached| earlier_program(attached).transpose())
            .transpose();
        let mut earlier = match earlier {
            // Only whom it lets do anything (CAP_SYS_ADMIN) does the kernel give other programs than its own. This one can stand in
            // for the earlier one as long as it works on the same tables.
            Err(error) if error.is_not_permitted() => {
                if self.awaits_records {
                    return Err(DatapathError::ModeAndSizes);
                }
                None
            }
            other => other?,
        };
        drop(link);
        detach_link(pin)?;
        let attached = attach_anew(xdp(&mut self.ebpf)?, interface, mode, pin);
        if attached.is_err() {
            let earlier = match &mut earlier {
                Some(earlier) => earlier,
                None => xdp(&mut self.ebpf)?,
            };
            attach_anew(earlier, interface, earlier_mode, pin)?;
        }
        attached.map(|attached| Attachment {
            replaced: true,
            ..attached
        })
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

/// Attaches a program where none is, and pins the link.
fn attach_anew(
    program: &mut Xdp,
    interface: &Interface,
    mode: Mode,
    pin: &Path,
) -> Result<Attachment, DatapathError> {
    let name = &interface.name;
    let refused = |reason: String| DatapathError::Attach {
        interface: name.clone(),
        tried: vec![format!("{mode}: {reason}")],
    };
    let id = match program.attach_to_if_index(interface.index, flags(mode)) {
        Ok(id) => id,
        Err(error) if is_occupied(&error) => {
            return Err(DatapathError::Occupied {
                interface: name.clone(),
                program: interface.xdp.as_ref().and_then(|attached| attached.program),
            });
        }
        Err(error) => {
            let reason = os_error(&error).map_or_else(|| error.to_string(), ToString::to_string);
            return Err(refused(reason));
        }
    };
    let link = FdLink::try_from(program.take_link(id)?).map_err(|error| {
        refused(format!(
            "the kernel made no BPF link ({error}); Linux 6.1 or newer is needed"
        ))
    })?;
    link.pin(pin).map_err(|error| DatapathError::Pin {
        path: pin.to_owned(),
        source: Box::new(error),
    })?;
    Ok(Attachment {
        interface: name.clone(),
        index: interface.index,
        mode,
        replaced: false,
        refused: Vec::new(),
    })
}

/// The kernel answers EBUSY to a second link, EEXIST to another mode beside a program.
fn is_occupied(error: &ProgramError) -> bool {
    is(error, io::ErrorKind::ResourceBusy) || is(error, io::ErrorKind::AlreadyExists)
}

fn is(error: &(dyn std::error::Error + 'static), kind: io::ErrorKind) -> bool {
    os_error(error).is_some_and(|error| error.kind() == kind)
}
