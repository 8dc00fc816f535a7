//! `[[vrrp.track]]`: what an instance depends on.

use std::num::NonZeroU8;
use std::time::Duration;

use super::assemble::value_or;
use super::command::command;
use super::document::Document;
use super::error::{ConfigError, Origin};
use super::model::ProgramPlace;
use super::pace::{self, FALL, INTERVAL, RISE, TIMEOUT};
use super::reader::{At, TableReader};
use super::value;
use crate::core::command::Command;
use crate::core::vrrp::{Effect, OWNER, Script, Subject, Track};

/// Of a service's backends, how many of a hundred must be healthy.
const HEALTHY: u8 = 50;

/// The keys that name what is tracked.
const SUBJECTS: [&str; 3] = ["interface", "service", "script"];

/// The table as written.
#[derive(Debug)]
pub(super) struct TrackKeys {
    origin: Origin,
    interface: Option<At<String>>,
    service: Option<At<String>>,
    healthy: Option<At<u8>>,
    script: Option<At<Command>>,
    interval: Option<At<Duration>>,
    timeout: Option<At<Duration>>,
    rise: Option<At<u32>>,
    fall: Option<At<u32>>,
    lower: Option<At<u8>>,
    /// The subjects that were written, whether or not they were refused.
    subjects: Vec<&'static str>,
}

impl TrackKeys {
    pub(super) fn read(table: &mut TableReader<'_, '_>) -> Self {
        let subjects = SUBJECTS
            .into_iter()
            .filter(|subject| table.mentions(subject))
            .collect();
        Self {
            origin: table.origin().clone(),
            interface: table.optional("interface", value::interface),
            service: table.optional("service", value::name),
            healthy: table.optional("healthy", |value| {
                value::integer(value, 1..=100, "leave the key out to get 50 percent")
            }),
            script: table.optional("script", command),
            interval: pace::interval(table),
            timeout: pace::timeout(table),
            rise: pace::rise(table),
            fall: pace::fall(table),
            lower: table.optional("lower", |value| {
                value::integer(value, 1..=253, "leave the key out to declare a fault instead")
            }),
            subjects,
        }
    }

    pub(super) fn report(
        &self,
        document: &Document,
        priority: Option<&At<NonZeroU8>>,
        errors: &mut Vec<ConfigError>,
    ) {
        if self.subjects.len() != 1 {
            errors.push(self.origin.error(
                "expected one of the keys interface, service and script; write a table for each thing that is tracked",
            ));
        }
        self.report_strays(errors);
        let names = || {
            document
                .services
                .iter()
                .filter_map(|service| service.name.as_ref())
        };
        if let Some(at) = &self.service
            && names().all(|name| name.value != at.value)
        {
            errors.push(at.origin.error(format!(
                "expected the name of a service, found {:?}; there is none of this name",
                at.value
            )));
        }
        if let (Some(at), Some(priority)) = (&self.lower, priority)
            && priority.value == OWNER
        {
            errors.push(at.origin.error(
                "expected a priority below 255, which belongs to the addresses' owner and cannot be lowered; choose a lower one",
            ));
        }
    }

    /// Reports keys of another subject: whoever writes one expects something of it.
    fn report_strays(&self, errors: &mut Vec<ConfigError>) {
        fn origin<T>(at: Option<&At<T>>) -> Option<&Origin> {
            at.map(|at| &at.origin)
        }
        let keys = [
            (origin(self.healthy.as_ref()), "service"),
            (origin(self.interval.as_ref()), "script"),
            (origin(self.timeout.as_ref()), "script"),
            (origin(self.rise.as_ref()), "script"),
            (origin(self.fall.as_ref()), "script"),
        ];
        for (origin, subject) in keys {
            if let Some(origin) = origin
                && !self.subjects.contains(&subject)
            {
                errors.push(origin.error(format!("expected this key beside `{subject}`; remove it")));
            }
        }
    }

    /// Where it names a program, if it does.
    pub(super) fn program(&self) -> Option<ProgramPlace> {
        self.script.as_ref().map(ProgramPlace::of)
    }

    pub(super) fn assemble(self) -> Option<Track> {
        let subject = match (self.interface, self.service, self.script) {
            (Some(interface), _, _) => Subject::Link(interface.value),
            (None, Some(service), _) => Subject::Service {
                name: service.value,
                percent: value_or(self.healthy, HEALTHY),
            },
            (None, None, Some(script)) => Subject::Script(Script {
                command: script.value,
                interval: value_or(self.interval, INTERVAL),
                timeout: value_or(self.timeout, TIMEOUT),
                rise: value_or(self.rise, RISE),
                fall: value_or(self.fall, FALL),
            }),
            (None, None, None) => return None,
        };
        Some(Track {
            subject,
            effect: self.lower.map_or(Effect::Fault, |at| Effect::Lower(at.value)),
        })
    }
}
