//! What was agreed upon in a handshake, for those who ask.

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::TlsStream;

const DAY: i64 = 24 * 3600;

/// What was agreed upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `TLS 1.3`.
    pub version: String,
    /// The cipher suite.
    pub cipher: String,
    /// What the server presented, if it can be read.
    pub certificate: Option<Certificate>,
}

/// A certificate as a person wants to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it was made out to.
    pub subject: String,
    /// The day on which it ends, as `2026-12-31`.
    pub valid_until: String,
    /// Days until then; below zero it is over.
    pub days_left: i64,
}

impl Facts {
    /// Of a connection whose handshake is done.
    pub fn of<S>(stream: &TlsStream<S>) -> Self {
        let (_, tls) = stream.get_ref();
        let version = tls.protocol_version().map(|version| format!("{version:?}"));
        let cipher = tls.negotiated_cipher_suite();
        Self {
            // rustls writes TLSv1_3.
            version: version
                .unwrap_or_default()
                .replace("TLSv", "TLS ")
                .replace('_', "."),
            cipher: cipher
                .map(|c| format!("{:?}", c.suite()))
                .unwrap_or_default(),
            certificate: tls
                .peer_certificates()
                .and_then(|chain| Certificate::read(chain.first()?)),
        }
    }
}

impl Certificate {
    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let end = certificate.validity().not_after;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let left = end.timestamp() - i64::try_from(now.as_secs()).ok()?;
        let date = end.to_datetime().date();
        Some(Self {
            subject: certificate.subject().to_string(),
            valid_until: format!(
                "{}-{:02}-{:02}",
                date.year(),
                u8::from(date.month()),
                date.day()
            ),
            days_left: left.div_euclid(DAY),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_whose_it_is_and_how_long() {
        let mut params = rcgen::CertificateParams::new(["redis.test".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2199, 5, 7);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap();
        let read = Certificate::read(der.der()).unwrap();
        assert_eq!(read.valid_until, "2199-05-07");
        assert!(read.days_left > 10_000 && read.subject.contains("CN="));
        assert_eq!(Certificate::read(b"no certificate"), None);
    }
}
