//! Which server certificates are accepted.
//!
//! The decisions are webpki's. This module adds what Redis deployments need beyond them: roots
//! that are read on first use, a chain check without the name, a self-signed server certificate
//! that is itself the `ca` file, and a rejection that can tell self-signed from unknown.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{TlsError, pem, roots_of};

/// Accepts certificates that chain to a trusted root and, where asked, bear the server's name.
pub(super) struct Chain {
    roots: OnceLock<RootCertStore>,
    /// The certificates of the `ca` file, byte for byte; empty with the system's roots.
    listed: Vec<CertificateDer<'static>>,
    check_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Chain {
    /// Trusts the certificates in a file, and nothing else.
    pub(super) fn of_file(
        provider: &CryptoProvider,
        path: &Path,
        check_name: bool,
    ) -> Result<Self, TlsError> {
        let listed = pem::certificates(path)?;
        let roots = roots_of(&listed, path)?;
        Ok(Self {
            roots: OnceLock::from(roots),
            listed,
            check_name,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// Trusts the system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` included) and the bundled ones,
    /// which serve images without any.
    pub(super) fn of_system(provider: &CryptoProvider, check_name: bool) -> Self {
        Self {
            roots: OnceLock::new(),
            listed: Vec::new(),
            check_name,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    /// Whether [`load`](Self::load) has nothing left to do.
    pub(super) fn is_loaded(&self) -> bool {
        self.roots.get().is_some()
    }

    /// Reads the system's roots, once. Blocks.
    pub(super) fn load(&self) -> &RootCertStore {
        self.roots.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            let native = rustls_native_certs::load_native_certs();
            let (used, _) = roots.add_parsable_certificates(native.certs);
            let bundled = webpki_roots::TLS_SERVER_ROOTS;
            roots.extend(bundled.iter().cloned());
            tracing::debug!(
                system = used,
                bundled = bundled.len(),
                "root certificates loaded"
            );
            roots
        })
    }

    fn verify_chain(
        &self,
        cert: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let roots = self.load();
        let all = self.algorithms.all;
        let verdict =
            verify_server_cert_signed_by_trust_anchor(parsed, roots, intermediates, now, all);
        match verdict {
            // `openssl req -x509` marks what it makes as a CA, which webpki refuses as a server's
            // certificate once it has checked the dates. Listed in the `ca` file it is trusted by
            // itself, as OpenSSL and with it the usual Redis clients see it.
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.listed.iter().any(|listed| listed == cert) =>
            {
                Ok(())
            }
            Err(Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            )) if self.is_self_signed(cert, parsed, now) => Err(Error::InvalidCertificate(
                CertificateError::Other(OtherError(Arc::new(SelfSigned))),
            )),
            other => other,
        }
    }

    /// Whether the certificate vouches for itself. This decides only what the error says.
    fn is_self_signed(
        &self,
        cert: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        now: UnixTime,
    ) -> bool {
        let mut own = RootCertStore::empty();
        if own.add(cert.clone()).is_err() {
            return false;
        }
        let all = self.algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(parsed, &own, &[], now, all) {
            Ok(()) => true,
            // Refused for being a CA, before its signature was looked at. webpki does not show the
            // issuer, but where the subject's encoding occurs twice the other one is the issuer.
            Err(Error::InvalidCertificate(CertificateError::Other(_))) => {
                let subject = own.roots[0].subject.as_ref();
                !subject.is_empty() && memchr::memmem::find_iter(cert, subject).nth(1).is_some()
            }
            Err(_) => false,
        }
    }
}

impl ServerCertVerifier for Chain {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(cert)?;
        self.verify_chain(cert, &parsed, intermediates, now)?;
        if self.check_name {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("listed", &self.listed.len())
            .field("check_name", &self.check_name)
            .finish_non_exhaustive()
    }
}

/// Accepts every certificate, and every signature with it: proof that the server owns the key of
/// a certificate that nobody vouches for says nothing about who answers.
#[derive(Debug)]
pub(super) struct Anything(WebPkiSupportedAlgorithms);

impl Anything {
    pub(super) fn new(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Why a certificate that no root vouches for was refused, where it vouches for itself.
#[derive(Debug)]
pub(super) struct SelfSigned;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("self-signed")
    }
}

impl std::error::Error for SelfSigned {}
