//! Whose orders hold for the connections of a backend that is leaving.

use lb_common::layout::TargetName;

use super::{Admin, Orders};
use crate::core::config::Service;

impl Orders {
    /// The same for a backend that is leaving: it gets no new flows, whatever has been decided. What has been decided about those that
    /// it has left counts.
    #[must_use]
    pub fn of_leaving(self) -> Self {
        Self {
            admin: match self.admin {
                Admin::Enabled | Admin::Draining => Admin::Draining,
                Admin::Disabled => Admin::Disabled,
            },
            weight: None,
            deadline: self.deadline,
            soft: false,
        }
    }
}

/// Under which name the machine behind a target that is leaving is a backend of the service still, if it is one: flows that began under its
/// former name go to the same address and port, so what operators decide about it holds for them too.
pub fn stands_on_as<'a>(service: &'a Service, left: &TargetName) -> Option<&'a str> {
    let mut backends = service.backends.iter();
    let same = backends.find(|it| (it.address, it.port) == (left.address(), left.port()));
    same.map(|it| it.name.as_str())
}
