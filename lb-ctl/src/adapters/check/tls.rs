//! TLS for checks: whom to trust, made once and shared by all checks that trust alike.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Whom a check trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// A file of PEM certificates to trust; `None` for those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// The name that the certificate must bear, and that is asked for; `None` for the backend's address.
    pub server_name: Option<String>,
    /// Whether the certificate is looked at at all. Without, the check shows that TLS works, not whose.
    pub verify: bool,
}

/// Why [`TlsOptions`] cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of certificates cannot be read.
    #[error("cannot read the CA certificates in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It contains no usable certificate.
    #[error("expected PEM certificates in {path}, found {found}")]
    NoCertificates {
        /// The file, or where the operating system keeps them.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// The name is neither a DNS name nor an address.
    #[error("expected a DNS name or an IP address as the server's name, found {name:?}")]
    Name {
        /// The name.
        name: String,
    },
    /// The TLS library refuses these options.
    #[error("TLS cannot be set up")]
    Library(#[from] rustls::Error),
}

/// TLS, ready for use. Equal if it trusts alike, also after the file of certificates has been read again.
#[derive(Clone)]
pub struct Tls {
    options: TlsOptions,
    /// What the file contained.
    ca_file: Arc<[u8]>,
    server_name: Option<ServerName<'static>>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the certificates.
    pub fn load(options: TlsOptions) -> Result<Self, TlsError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let server_name = options.server_name.as_ref().map(|name| {
            ServerName::try_from(name.clone()).map_err(|_| TlsError::Name { name: name.clone() })
        });
        let server_name = server_name.transpose()?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let mut ca_file = Arc::<[u8]>::default();
        let config = if options.verify {
            let roots = match &options.ca_file {
                Some(path) => {
                    let text = fs::read(path).map_err(|source| TlsError::Read {
                        path: path.clone(),
                        source,
                    })?;
                    let roots = roots_of(path, &text)?;
                    ca_file = text.into();
                    roots
                }
                None => system_roots()?,
            };
            builder.with_root_certificates(roots).with_no_client_auth()
        } else {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
                .with_no_client_auth()
        };
        Ok(Self {
            options,
            ca_file,
            server_name,
            config: Arc::new(config),
        })
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The name that the certificate of the backend at this address must bear.
    pub(super) fn server_name(&self, address: IpAddr) -> ServerName<'static> {
        self.server_name
            .clone()
            .unwrap_or_else(|| ServerName::IpAddress(address.into()))
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.options == other.options && self.ca_file == other.ca_file
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.options).finish()
    }
}

fn roots_of(path: &std::path::Path, text: &[u8]) -> Result<RootCertStore, TlsError> {
    let refuse = |found: String| TlsError::NoCertificates {
        path: path.to_owned(),
        found,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refuse("none".to_owned()));
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some of them are of kinds that this library does not know: that is no reason to do without the others.
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let found = loaded.errors.first().map_or_else(
            || "none; install ca-certificates or name a ca_file".to_owned(),
            ToString::to_string,
        );
        return Err(TlsError::NoCertificates {
            path: "/etc/ssl/certs".into(),
            found,
        });
    }
    Ok(roots)
}

/// Takes any certificate. Signatures of the handshake are verified all the same: it costs nothing, and shows that the server
/// holds the key of the certificate that it shows.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
