//! TLS at the door, and what the certificate of a client says of it.
//!
//! A client may show a certificate signed by one of the operator's authorities; a name in it of the form
//! `tollbook:key:<id>` says which API key the client holds. The handshake has proved that the client owns it. Absent on
//! purpose: lists of withdrawn certificates: who revokes the API key has refused the certificate.

use std::{io, path::PathBuf, sync::Arc};

use parking_lot::RwLock;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use schemas::KeyId;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use webpki::EndEntityCert;

/// What the name of a key begins with in a certificate.
const NAME: &str = "tollbook:key:";

/// Where certificates lie; each a PEM file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The node's chain, its own first.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The authorities of clients; `None` = no client is asked for a certificate.
    pub client_ca: Option<PathBuf>,
}

/// The certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("`{0}` holds no PEM of the kind that is needed")]
    Pem(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("`{0}` holds no certificate")]
    Empty(PathBuf),
    #[error("the certificate and the key do not go together, or cannot be used")]
    Unusable(#[from] rustls::Error),
    #[error("the authorities of clients cannot be used")]
    Authorities(#[from] VerifierBuilderError),
}

/// The certificates as they were read last.
pub struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn try_new(files: TlsFiles) -> Result<Self, TlsError> {
        let config = RwLock::new(Arc::new(read(&files)?));
        Ok(Self { files, config })
    }

    /// Reads the files again, for connections from now on.
    ///
    /// # Errors
    /// See [`TlsError`]; the certificates stay as they were.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(read(&self.files)?);
        *self.config.write() = config;
        Ok(())
    }

    /// Shakes hands; says which key the client's certificate names.
    pub(super) async fn accept(
        &self,
        connection: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<KeyId>)> {
        let acceptor = TlsAcceptor::from(self.config.read().clone());
        let stream = acceptor.accept(connection).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let key = shown.and_then(named_key);
        Ok((stream, key))
    }
}

/// The one key that a certificate names; two are none.
fn named_key(certificate: &CertificateDer<'_>) -> Option<KeyId> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let mut keys = certificate.valid_uri_names().filter_map(|name| name.strip_prefix(NAME));
    let key = keys.next()?.parse().ok()?;
    keys.next().is_none().then_some(key)
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| TlsError::Pem(files.key.clone(), error))?;
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(ca) => config.with_client_cert_verifier(verifier(ca, provider)?),
    };
    let mut config = config.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A client may show a certificate; one that it shows must be good.
fn verifier(
    ca: &PathBuf,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    Ok(builder.allow_unauthenticated().build()?)
}

fn certificates(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| TlsError::Pem(file.clone(), error))?;
    if certificates.is_empty() { Err(TlsError::Empty(file.clone())) } else { Ok(certificates) }
}
