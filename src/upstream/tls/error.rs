//! What went wrong with TLS, in a sentence a person can act on.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use rustls_pki_types::ServerName;

use super::verify::SelfSigned;
use crate::downstream::TlsIdentity;
use crate::stats::ConnectFailure;

/// Most names of a certificate that a message lists.
const NAMES_SHOWN: usize = 8;

/// Why TLS could not be set up, or a handshake failed. The text contains no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// A file cannot be used.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, to be read after its name.
        reason: String,
    },
    /// The host is neither a DNS name nor an IP address.
    ServerName(String),
    /// The settings contradict each other.
    Setup(String),
    /// The peer's certificate was refused.
    Certificate(String),
    /// The peer refused, or does not speak TLS.
    Handshake(String),
    /// The connection broke during the handshake.
    Io(String),
    /// The peer closed the connection during the handshake.
    Closed(String),
    /// The handshake was begun and never answered.
    Silent,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, reason } => write!(f, "{} {reason}", path.display()),
            Self::ServerName(name) => {
                write!(
                    f,
                    "`{name}` is neither a DNS name nor an IP address, so no certificate fits"
                )
            }
            Self::Setup(text)
            | Self::Certificate(text)
            | Self::Handshake(text)
            | Self::Closed(text)
            | Self::Io(text) => f.write_str(text),
            Self::Silent => f.write_str(
                "the server did not answer the TLS handshake in time: \
                 it may not speak TLS on this port",
            ),
        }
    }
}

impl std::error::Error for TlsError {}

impl TlsError {
    /// The cause under which a failed connect is counted.
    pub fn cause(&self) -> ConnectFailure {
        match self {
            Self::Io(_) | Self::Closed(_) => ConnectFailure::Closed,
            Self::Certificate(_) => ConnectFailure::Certificate,
            Self::Silent => ConnectFailure::Timeout,
            _ => ConnectFailure::Tls,
        }
    }

    /// The server closed the connection in the middle of the handshake, without a word.
    pub fn is_hang_up(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Closed(_))
    }

    pub(super) fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    pub(super) fn setup(err: impl fmt::Display) -> Self {
        Self::Setup(format!("TLS cannot be set up: {err}"))
    }

    /// The certificate and key were read but do not work together.
    pub(super) fn identity(identity: &TlsIdentity, err: &Error) -> Self {
        match err {
            Error::InconsistentKeys(_) => Self::file(
                &identity.key,
                format!("is not the private key of {}", identity.cert.display()),
            ),
            _ => Self::file(&identity.key, format!("cannot be used: {err}")),
        }
    }

    /// A handshake that this process began.
    pub(super) fn from_server(err: &io::Error) -> Self {
        explain_as(err, "server")
    }

    /// A handshake that a client began.
    pub(super) fn from_client(err: &io::Error) -> Self {
        explain_as(err, "client")
    }
}

/// The reason behind an error of reading from or writing to an upstream TLS connection, if TLS is
/// the reason. In TLS 1.3 a server that refuses the client's certificate says so only after the
/// handshake has succeeded on this side.
pub fn explain(err: &io::Error) -> Option<TlsError> {
    Some(by_rustls(rustls_error(err)?, "server"))
}

fn explain_as(err: &io::Error, peer: &str) -> TlsError {
    match rustls_error(err) {
        Some(err) => by_rustls(err, peer),
        None if err.kind() == io::ErrorKind::UnexpectedEof => TlsError::Closed(format!(
            "the {peer} closed the connection during the TLS handshake: \
             it may not speak TLS on this port, or have no room for a connection"
        )),
        None => TlsError::Io(format!(
            "the connection broke during the TLS handshake: {err}"
        )),
    }
}

fn rustls_error(err: &io::Error) -> Option<&Error> {
    err.get_ref()?.downcast_ref()
}

fn by_rustls(err: &Error, peer: &str) -> TlsError {
    let text = match err {
        Error::InvalidCertificate(reason) => return TlsError::Certificate(refusal(reason, peer)),
        // What is not TLS at all fails at the first byte or at the version and length after it.
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        ) => format!("the {peer} does not speak TLS on this port: it answered in plain text"),
        Error::NoCertificatesPresented => {
            format!("the {peer} presented no certificate, and one is required")
        }
        Error::AlertReceived(alert) => alert_text(*alert, peer),
        Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
        | Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)
        | Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)
        | Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired) => {
            format!("the {peer} offers neither TLS 1.2 nor TLS 1.3")
        }
        other => format!("the TLS handshake with the {peer} failed: {other}"),
    };
    TlsError::Handshake(text)
}

/// Why this process refused the peer's certificate.
fn refusal(reason: &CertificateError, peer: &str) -> String {
    use CertificateError as E;
    match reason {
        E::ExpiredContext { not_after, .. } => {
            format!(
                "the {peer}'s certificate expired on {}",
                date(not_after.as_secs())
            )
        }
        E::Expired => format!("the {peer}'s certificate has expired"),
        E::NotValidYetContext { not_before, .. } => {
            let from = date(not_before.as_secs());
            format!("the {peer}'s certificate is valid only from {from}; is this clock right?")
        }
        E::NotValidForNameContext {
            expected,
            presented,
        } => mismatch(expected, presented, peer),
        E::UnknownIssuer => format!(
            "the {peer}'s certificate is signed by an unknown CA: \
             give the CA's certificate as `ca`, and let the {peer} send its intermediates"
        ),
        E::Other(other) if other.0.is::<SelfSigned>() => format!(
            "the {peer}'s certificate is self-signed and not trusted: give that certificate as `ca`"
        ),
        E::Revoked => format!("the {peer}'s certificate has been revoked"),
        E::BadSignature => format!("the {peer}'s certificate has a wrong signature"),
        E::BadEncoding => format!("the {peer}'s certificate cannot be read"),
        E::InvalidPurposeContext { .. } | E::InvalidPurpose => {
            format!("the {peer}'s certificate was not issued for use by a TLS {peer}")
        }
        other => format!("the {peer}'s certificate was refused: {other}"),
    }
}

fn mismatch(expected: &ServerName<'_>, presented: &[String], peer: &str) -> String {
    let mut names: Vec<&str> = presented
        .iter()
        .take(NAMES_SHOWN)
        .map(|n| bare_name(n))
        .collect();
    if presented.len() > NAMES_SHOWN {
        names.push("...");
    }
    let valid_for = match names.is_empty() {
        true => "it contains no subject alternative name".to_owned(),
        false => format!("it is valid for {}", names.join(", ")),
    };
    let expected = expected.to_str();
    format!("the {peer}'s certificate is not valid for the name {expected}: {valid_for}")
}

/// webpki presents names as `DnsName("example.com")`.
fn bare_name(name: &str) -> &str {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// Why the peer refused.
fn alert_text(alert: AlertDescription, peer: &str) -> String {
    use AlertDescription as A;
    let reason = match alert {
        A::HandshakeFailure => "it supports none of the ciphers and key exchanges offered",
        A::ProtocolVersion => "it supports neither TLS 1.2 nor TLS 1.3",
        A::UnrecognisedName => "it does not know the server name sent to it (`server_name`)",
        A::CertificateRequired => "it requires a client certificate (`cert` and `key`)",
        A::UnknownCA => "it does not know the CA that signed this side's certificate",
        A::CertificateExpired => "it says that this side's certificate has expired",
        A::BadCertificate | A::CertificateUnknown | A::UnsupportedCertificate => {
            "it does not accept this side's certificate"
        }
        A::AccessDenied => "it denies access",
        _ => return format!("the {peer} broke off the TLS handshake with the alert {alert:?}"),
    };
    format!("the {peer} broke off the TLS handshake: {reason}")
}

/// A day and time in UTC, such as `2024-02-29 12:00:00 UTC`.
pub fn date(unix_seconds: u64) -> String {
    let since = Duration::from_secs(unix_seconds);
    let (mut days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years are counted from March, so that the leap day is the last of its year.
    days += 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59:59 UTC");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn names_are_shown_without_their_type() {
        assert_eq!(bare_name("DnsName(\"*.example.com\")"), "*.example.com");
        assert_eq!(bare_name("IpAddress(127.0.0.1)"), "127.0.0.1");
        assert_eq!(bare_name("plain"), "plain");
    }
}
