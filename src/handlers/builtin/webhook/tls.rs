//! TLS 1.2 and 1.3 to the endpoint, by rustls. Whom it believes is the system's list, or a file of the configuration.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where distributions have the certificates that they believe: Debian and its kin, Fedora and its kin, others.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The stream, once the other end has proven to be `host`.
///
/// # Errors
///
/// It has not, or nobody is known who could vouch for it.
pub(super) async fn over(
    stream: TcpStream,
    host: &str,
    ca_file: Option<&Path>,
) -> Result<TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(ca_file)?)
        .with_no_client_auth();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host:?}: {error}"))?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| error.to_string())
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let file = ca_file.or_else(|| SYSTEM.iter().map(Path::new).find(|file| file.exists()));
    let file =
        file.ok_or("there is no list of certificates on this system; next: install ca-certificates")?;
    let unread =
        |error: &dyn std::fmt::Display| format!("cannot read certificates from {}: {error}", file.display());
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| unread(&error))?;
    let mut roots = RootCertStore::empty();
    // In a long list some are of a kind that is not understood.
    let (added, _) = roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if added == 0 { Err(unread(&"there is none")) } else { Ok(roots) }
}
