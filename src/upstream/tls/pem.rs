//! Certificates and keys from PEM files, with errors that name the file and never its content.

use std::path::Path;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// All certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|err| TlsError::file(path, wording(&err)))?;
    if certificates.is_empty() {
        let reason = "contains no certificate (a line `-----BEGIN CERTIFICATE-----` is expected)";
        return Err(TlsError::file(path, reason));
    }
    Ok(certificates)
}

/// The first private key of a file: PKCS#8, PKCS#1 or SEC1, not encrypted.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|err| {
        let encrypted = find(&text, b"ENCRYPTED");
        let reason = match err {
            _ if encrypted => "contains an encrypted private key; store it without a passphrase",
            pem::Error::NoItemsFound => "contains no private key (PKCS#8, PKCS#1 or SEC1 in PEM)",
            _ => wording(&err),
        };
        TlsError::file(path, reason)
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|err| TlsError::file(path, format!("cannot be read: {err}")))
}

/// The parser's own words may quote the file, which may be a key.
fn wording(err: &pem::Error) -> &'static str {
    match err {
        pem::Error::MissingSectionEnd { .. } => "is cut off: an END line is missing",
        _ => "is not valid PEM",
    }
}

fn find(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(text, word).is_some()
}
