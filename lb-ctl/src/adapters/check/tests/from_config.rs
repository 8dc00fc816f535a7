//! What a configuration says about checks, and what is done then.

use super::super::{ClientPort, Probe, Target, TlsError, WebPort, targets};
use super::*;
use crate::core::config::{self, CheckKind, CheckTls, HostDefaults, Service};
use crate::core::health::probe::Authentication;

fn service(kind: CheckKind) -> Service {
    let text = r#"
        [datapath]
        interfaces = ["eth0"]
        [[service]]
        name = "impala"
        vip = "192.0.2.10"
        port = 21050
        backend = [{ name = "a", address = "192.0.2.21" }, { name = "b", address = "192.0.2.22" }]
        "#;
    let host = HostDefaults {
        node_name: "balancer1".to_owned(),
    };
    let config = config::parse("lb.toml", text, &host).unwrap();
    let mut service = config.services.into_iter().next().unwrap();
    service.check.kind = kind;
    service
}

fn first_probe(service: &Service) -> Probe {
    targets(service).unwrap().swap_remove(0).probe
}

fn client(port: u16) -> ClientPort {
    ClientPort {
        port,
        tls: None,
        authentication: Authentication::None,
    }
}

#[test]
fn every_backend_is_a_target() {
    let mut service = service(CheckKind::Tcp);
    service.check.source = Some(IpAddr::from([192, 0, 2, 1]));
    let target = |host| Target {
        address: IpAddr::from([192, 0, 2, host]),
        source: Some(IpAddr::from([192, 0, 2, 1])),
        timeout: Duration::from_secs(2),
        probe: Probe::Tcp { port: 21050 },
    };
    assert_eq!(targets(&service).unwrap(), [target(21), target(22)]);
    service.check.port = Some(9000);
    assert_eq!(first_probe(&service), Probe::Tcp { port: 9000 });
    service.check.kind = CheckKind::None;
    assert_eq!(targets(&service).unwrap(), []);
}

#[test]
fn every_type_has_its_probe() {
    let web = |port| WebPort { port, tls: None };
    for (kind, expected) in [
        (
            CheckKind::Http,
            Probe::Web {
                web: web(21050),
                path: "/".to_owned(),
            },
        ),
        (CheckKind::Hs2, Probe::HiveServer2(client(21050))),
        (
            CheckKind::Impala,
            Probe::Coordinator {
                client: client(21050),
                web: web(25000),
            },
        ),
        (
            CheckKind::ActiveStatus,
            Probe::ActiveStatus {
                web: web(25000),
                metric: None,
            },
        ),
    ] {
        assert_eq!(first_probe(&service(kind)), expected);
    }
}

#[test]
fn tls_is_where_it_is_asked_for() {
    let mut service = service(CheckKind::Impala);
    service.check.tls = Some(CheckTls {
        ca_file: None,
        server_name: None,
        verify: false,
    });
    for (client_tls, web_tls) in [(false, true), (true, false), (true, true)] {
        (service.check.client_tls, service.check.web_tls) = (client_tls, web_tls);
        let Probe::Coordinator { client, web } = first_probe(&service) else {
            panic!("expected the probe of a coordinator")
        };
        assert_eq!((client.tls.is_some(), web.tls.is_some()), (client_tls, web_tls));
    }
    service.check.kind = CheckKind::Https;
    let Probe::Web { web, .. } = first_probe(&service) else {
        panic!("expected a page")
    };
    assert!(web.tls.is_some());
}

#[test]
fn certificates_that_are_missing_are_an_error_and_not_a_check_without_them() {
    let mut service = service(CheckKind::Https);
    service.check.tls = Some(CheckTls {
        ca_file: Some("/nonexistent/ca.pem".into()),
        server_name: None,
        verify: true,
    });
    assert!(matches!(targets(&service), Err(TlsError::Read { .. })));
}
