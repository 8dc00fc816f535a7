//! Certificates that are right and wrong, for web pages and client ports.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::super::{ClientPort, Tls, TlsError, TlsOptions, WebPort};
use super::client_port::reply;
use super::servers::{answering, http, read_some, serve, stopping_after};
use super::*;
use crate::core::health::probe::Authentication;

/// A certificate authority, with its certificate in a file.
pub(in crate::adapters) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: File,
}

/// A file that ends with the test.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lb-ctl-check-{}-{name}.pem", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Authority {
    pub(in crate::adapters) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = File::new(name, &issuer.pem());
        Self { issuer, file }
    }

    /// A server with a certificate for this name that sends one answer.
    pub(in crate::adapters) async fn server(&self, name: &str, answer: Vec<u8>) -> u16 {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()])
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        serve(move |stream| {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            async move {
                let mut stream = acceptor.accept(stream).await?;
                read_some(&mut stream).await?;
                stream.write_all(&answer).await?;
                stream.shutdown().await
            }
        })
        .await
    }

    pub(in crate::adapters) fn trusted(&self, server_name: Option<&str>) -> Tls {
        Tls::load(TlsOptions {
            ca_file: Some(self.file.0.clone()),
            server_name: server_name.map(str::to_owned),
            verify: true,
        })
        .unwrap()
    }
}

fn unverified() -> Tls {
    Tls::load(TlsOptions {
        ca_file: None,
        server_name: None,
        verify: false,
    })
    .unwrap()
}

async fn find_page(port: u16, tls: Tls, timeout: Duration) -> Outcome {
    let web = WebPort { port, tls: Some(tls) };
    let probe = Probe::Web {
        web,
        path: "/".to_owned(),
    };
    find(probe, timeout).await
}

#[tokio::test]
async fn a_certificate_is_taken_for_its_name_from_its_authority() {
    let authority = Authority::new("right");
    let answer = http("200 OK", "").into_bytes();
    let named = authority.server("impala.example", answer.clone()).await;
    let by_address = authority.server("127.0.0.1", answer).await;
    for (port, tls) in [
        (named, authority.trusted(Some("impala.example"))),
        (named, unverified()),
        (by_address, authority.trusted(None)),
    ] {
        let outcome = find_page(port, tls, PLENTY).await;
        assert_eq!(outcome.verdict, Verdict::Healthy, "{}", outcome.detail);
    }
}

#[tokio::test]
async fn a_wrong_certificate_fails_and_says_why() {
    let (authority, stranger) = (Authority::new("known"), Authority::new("stranger"));
    let answer = http("200 OK", "").into_bytes();
    let port = authority.server("impala.example", answer).await;
    for (tls, reason) in [
        (stranger.trusted(Some("impala.example")), "UnknownIssuer"),
        (authority.trusted(Some("other.example")), "not valid for name"),
        (authority.trusted(None), "not valid for name"),
    ] {
        let outcome = find_page(port, tls, PLENTY).await;
        assert_eq!(outcome.verdict, FAILING);
        assert!(
            outcome.detail.contains(reason),
            "expected {reason}: {}",
            outcome.detail
        );
    }
}

#[tokio::test]
async fn what_does_not_speak_tls_fails_and_what_is_silent_is_saturated() {
    let port = answering(http("200 OK", "")).await;
    assert_eq!(find_page(port, unverified(), PLENTY).await.verdict, FAILING);
    let port = stopping_after("").await;
    assert_eq!(
        find_page(port, unverified(), LITTLE).await.verdict,
        Verdict::Saturated
    );
}

#[tokio::test]
async fn the_client_port_is_asked_over_tls() {
    let authority = Authority::new("hs2");
    let port = authority
        .server("127.0.0.1", reply("Invalid session id: 0:0\n"))
        .await;
    let client = ClientPort {
        port,
        tls: Some(authority.trusted(None)),
        authentication: Authentication::None,
    };
    let outcome = find(Probe::HiveServer2(client), PLENTY).await;
    assert_eq!(outcome.verdict, Verdict::Healthy, "{}", outcome.detail);
}

#[test]
fn options_that_cannot_be_used_are_refused() {
    let load = |ca_file: Option<PathBuf>, name: Option<&str>| {
        Tls::load(TlsOptions {
            ca_file,
            server_name: name.map(str::to_owned),
            verify: true,
        })
    };
    let missing = PathBuf::from("/nonexistent/ca.pem");
    assert!(matches!(load(Some(missing), None), Err(TlsError::Read { .. })));
    let empty = File::new("empty", "no certificate at all");
    assert!(matches!(
        load(Some(empty.0.clone()), None),
        Err(TlsError::NoCertificates { .. })
    ));
    let broken = File::new(
        "broken",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    assert!(matches!(
        load(Some(broken.0.clone()), None),
        Err(TlsError::NoCertificates { .. })
    ));
    let authority = Authority::new("name");
    let name = Some("two words");
    assert!(matches!(
        load(Some(authority.file.0.clone()), name),
        Err(TlsError::Name { .. })
    ));
}

#[test]
fn another_content_of_the_same_file_is_another_trust() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let before = one.trusted(None);
    assert_eq!(before, one.trusted(None));
    std::fs::copy(&other.file.0, &one.file.0).unwrap();
    assert_ne!(before, one.trusted(None));
}
