//! What operators configure.

use std::net::SocketAddr;

use super::{AFFINE, MAX_BACKENDS, MAX_SERVICES, SLOTS, Weights};
use crate::core::config::{self, Config, HostDefaults};

pub(super) fn service_address(service: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 10], 21_000 + service))
}

/// The configuration; `None` if no service is left.
pub(in crate::core::placement) fn configuration(weights: &Weights) -> Option<Config> {
    use std::fmt::Write as _;
    let mut text = "[datapath]\ninterfaces = [\"eth0\"]\n".to_owned();
    let mut services = 0;
    for (service, backends) in (0..).zip(weights) {
        if backends.iter().flatten().all(|weight| *weight == 0) {
            continue;
        }
        services += 1;
        let address = service_address(service);
        write!(
            text,
            "[[service]]\nname = \"s{service}\"\nvip = \"{}\"\nport = {}\n",
            address.ip(),
            address.port()
        )
        .unwrap();
        if service == AFFINE {
            text.push_str("affinity = \"client\"\n");
        }
        for (backend, weight) in backends.iter().enumerate() {
            if let Some(weight) = weight {
                write!(
                    text,
                    "[[service.backend]]\nname = \"b{backend}\"\naddress = \"192.0.2.{}\"\nweight = {weight}\n",
                    100 + backend
                )
                .unwrap();
            }
        }
    }
    let host = HostDefaults {
        node_name: "lb".into(),
    };
    let mut config = (services > 0).then(|| config::parse("lb.toml", &text, &host).unwrap())?;
    config.datapath.slots_per_service = SLOTS;
    config.datapath.max_services = MAX_SERVICES;
    config.datapath.max_backends = MAX_BACKENDS;
    Some(config)
}
