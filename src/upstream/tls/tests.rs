//! Handshakes over loopback sockets, between this module's two sides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A directory that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "nearkey-tls-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn identity(&self, name: &str, (cert, key): (String, String)) -> TlsIdentity {
        TlsIdentity {
            cert: self.write(&format!("{name}.crt"), &cert),
            key: self.write(&format!("{name}.key"), &key),
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (
            params.signed_by(&key, &self.issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }
}

fn params(name: &str, sans: &[&str]) -> CertificateParams {
    let sans: Vec<String> = sans.iter().map(|san| (*san).to_owned()).collect();
    let mut params = CertificateParams::new(sans).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn self_signed(params: &CertificateParams) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Greets every client whose handshake succeeds and then waits for it to leave.
async fn serve(acceptor: Acceptor) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let _ = stream.write_all(b"+HI\r\n").await;
                let _ = stream.read_u8().await;
                Ok::<(), TlsError>(())
            });
        }
    });
    address
}

async fn serve_identity(dir: &Dir, identity: (String, String)) -> SocketAddr {
    serve(Acceptor::new(&dir.identity("server", identity), None).unwrap()).await
}

fn trusting(dir: &Dir, ca_pem: &str, verify: Verify) -> TlsConfig {
    TlsConfig {
        verify,
        ca: Some(dir.write("ca.crt", ca_pem)),
        identity: None,
        server_name: None,
    }
}

async fn connect(
    connector: &Connector,
    address: SocketAddr,
    host: &str,
) -> Result<TlsStream<TcpStream>, TlsError> {
    let mut stream = connector
        .connect(host, TcpStream::connect(address).await.unwrap())
        .await?;
    let mut greeting = [0; 5];
    stream
        .read_exact(&mut greeting)
        .await
        .map_err(|err| explain(&err).expect("a TLS reason"))?;
    assert_eq!(&greeting, b"+HI\r\n");
    Ok(stream)
}

/// Connects once to a server with `identity`; the error is shown as its text.
async fn attempt(
    identity: (String, String),
    ca_pem: &str,
    verify: Verify,
    host: &str,
) -> Result<(), String> {
    let dir = Dir::new();
    let address = serve_identity(&dir, identity).await;
    let connector = Connector::new(&trusting(&dir, ca_pem, verify)).unwrap();
    let connected = connect(&connector, address, host).await;
    connected.map(drop).map_err(|err| err.to_string())
}

#[tokio::test]
async fn a_name_and_an_address_in_the_certificate_are_accepted() {
    let ca = Ca::new("test CA");
    let identity = || {
        ca.sign(&params(
            "redis",
            &["redis.test", "*.wild.test", "127.0.0.1", "::1"],
        ))
    };
    for host in ["redis.test", "a.wild.test", "127.0.0.1", "::1", "::1%lo"] {
        assert_eq!(
            attempt(identity(), &ca.pem, Verify::Full, host).await,
            Ok(()),
            "{host}"
        );
    }
}

#[tokio::test]
async fn an_expired_certificate_says_since_when() {
    let ca = Ca::new("test CA");
    let mut expired = params("redis", &["redis.test"]);
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2021, 2, 3);
    let text = "the server's certificate expired on 2021-02-03 00:00:00 UTC";
    for verify in [Verify::Full, Verify::Ca] {
        let refused = attempt(ca.sign(&expired), &ca.pem, verify, "redis.test").await;
        assert_eq!(refused, Err(text.to_owned()));
    }
    assert_eq!(
        attempt(ca.sign(&expired), &ca.pem, Verify::None, "redis.test").await,
        Ok(())
    );
}

#[tokio::test]
async fn a_certificate_of_the_future_asks_for_the_clock() {
    let ca = Ca::new("test CA");
    let mut future = params("redis", &["redis.test"]);
    future.not_before = date_time_ymd(2999, 1, 1);
    future.not_after = date_time_ymd(3000, 1, 1);
    let text = attempt(ca.sign(&future), &ca.pem, Verify::Full, "redis.test")
        .await
        .unwrap_err();
    assert!(
        text.contains("valid only from 2999-01-01") && text.contains("clock"),
        "{text}"
    );
}

#[tokio::test]
async fn a_wrong_name_lists_the_right_ones() {
    let ca = Ca::new("test CA");
    let identity = || ca.sign(&params("redis", &["redis.test", "127.0.0.1"]));
    let text = attempt(identity(), &ca.pem, Verify::Full, "other.test")
        .await
        .unwrap_err();
    let expected = "the server's certificate is not valid for the name other.test: \
                    it is valid for redis.test, 127.0.0.1";
    assert_eq!(text, expected);
    let text = attempt(identity(), &ca.pem, Verify::Full, "10.0.0.1")
        .await
        .unwrap_err();
    assert!(text.contains("not valid for the name 10.0.0.1"), "{text}");
    assert_eq!(
        attempt(identity(), &ca.pem, Verify::Ca, "other.test").await,
        Ok(())
    );

    let nameless = ca.sign(&params("redis", &[]));
    let text = attempt(nameless, &ca.pem, Verify::Full, "redis.test")
        .await
        .unwrap_err();
    assert!(text.contains("no subject alternative name"), "{text}");
}

#[tokio::test]
async fn an_unknown_ca_is_told_from_a_self_signed_certificate() {
    let (ours, theirs) = (Ca::new("our CA"), Ca::new("their CA"));
    let leaf = params("redis", &["redis.test"]);
    let mut leaf_marked_ca = leaf.clone();
    leaf_marked_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for verify in [Verify::Full, Verify::Ca] {
        let refused = attempt(theirs.sign(&leaf), &ours.pem, verify, "redis.test").await;
        assert!(
            refused
                .as_ref()
                .is_err_and(|text| text.contains("unknown CA")),
            "{refused:?}"
        );
        for leaf in [&leaf, &leaf_marked_ca] {
            let refused = attempt(self_signed(leaf), &ours.pem, verify, "redis.test").await;
            let text = refused.unwrap_err();
            assert!(text.contains("is self-signed and not trusted"), "{text}");
        }
    }
    assert_eq!(
        attempt(theirs.sign(&leaf), &ours.pem, Verify::None, "redis.test").await,
        Ok(())
    );
    assert_eq!(
        attempt(self_signed(&leaf), &ours.pem, Verify::None, "redis.test").await,
        Ok(())
    );
}

#[tokio::test]
async fn a_self_signed_certificate_may_be_its_own_ca_file() {
    let leaf = params("redis", &["redis.test"]);
    let mut leaf_marked_ca = leaf.clone();
    leaf_marked_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for leaf in [leaf, leaf_marked_ca.clone()] {
        let identity = self_signed(&leaf);
        let pem = identity.0.clone();
        let accepted = attempt(identity.clone(), &pem, Verify::Full, "redis.test").await;
        assert_eq!(accepted, Ok(()));
        let refused = attempt(identity, &pem, Verify::Full, "other.test").await;
        assert!(refused.is_err_and(|text| text.contains("not valid for the name")));
    }
    leaf_marked_ca.not_before = date_time_ymd(2020, 1, 1);
    leaf_marked_ca.not_after = date_time_ymd(2021, 2, 3);
    let identity = self_signed(&leaf_marked_ca);
    let pem = identity.0.clone();
    let refused = attempt(identity, &pem, Verify::Full, "redis.test").await;
    assert!(refused.is_err_and(|text| text.contains("expired on 2021-02-03")));
}

#[tokio::test]
async fn without_a_ca_file_the_public_roots_are_loaded_on_first_use() {
    let dir = Dir::new();
    let ca = Ca::new("test CA");
    let address = serve_identity(&dir, ca.sign(&params("redis", &["redis.test"]))).await;
    let config = TlsConfig {
        verify: Verify::Full,
        ca: None,
        identity: None,
        server_name: None,
    };
    let connector = Connector::new(&config).unwrap();
    assert!(!connector.chain.as_ref().unwrap().is_loaded());
    let text = connect(&connector, address, "redis.test")
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains("unknown CA"), "{text}");
    assert!(connector.chain.as_ref().unwrap().load().len() >= webpki_roots::TLS_SERVER_ROOTS.len());
}

#[tokio::test]
async fn the_configured_server_name_replaces_the_host() {
    let dir = Dir::new();
    let ca = Ca::new("test CA");
    let address = serve_identity(&dir, ca.sign(&params("redis", &["redis.test"]))).await;
    let mut config = trusting(&dir, &ca.pem, Verify::Full);
    config.server_name = Some("redis.test".to_owned());
    let connector = Connector::new(&config).unwrap();
    connect(&connector, address, "127.0.0.1").await.unwrap();

    config.server_name = Some("no name".to_owned());
    let text = Connector::new(&config).unwrap_err().to_string();
    assert!(
        text.contains("`no name` is neither a DNS name nor an IP address"),
        "{text}"
    );
}

#[tokio::test]
async fn the_second_connection_resumes_the_session_of_the_first() {
    let dir = Dir::new();
    let ca = Ca::new("test CA");
    let address = serve_identity(&dir, ca.sign(&params("redis", &["redis.test"]))).await;
    let connector = Connector::new(&trusting(&dir, &ca.pem, Verify::Full)).unwrap();
    let kind = |stream: &TlsStream<TcpStream>| stream.get_ref().1.handshake_kind();
    let first = connect(&connector, address, "redis.test").await.unwrap();
    assert_eq!(kind(&first), Some(HandshakeKind::Full));
    let second = connect(&connector.clone(), address, "redis.test")
        .await
        .unwrap();
    assert_eq!(kind(&second), Some(HandshakeKind::Resumed));
}

#[tokio::test]
async fn sessions_of_tls_1_2_are_resumed_too() {
    let dir = Dir::new();
    let ca = Ca::new("test CA");
    let identity = dir.identity("server", ca.sign(&params("redis", &["redis.test"])));
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            pem::certificates(&identity.cert).unwrap(),
            pem::private_key(&identity.key).unwrap(),
        )
        .unwrap();
    config.ticketer = ring::Ticketer::new().unwrap();
    let address = serve(Acceptor(Arc::new(config).into())).await;
    let connector = Connector::new(&trusting(&dir, &ca.pem, Verify::Full)).unwrap();
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let stream = connect(&connector, address, "redis.test").await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(
            session.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_2)
        );
        assert_eq!(session.handshake_kind(), Some(expected));
    }
}

#[tokio::test]
async fn a_required_client_certificate_is_asked_for_and_checked() {
    let dir = Dir::new();
    let ca = Ca::new("test CA");
    let client_ca = Ca::new("client CA");
    let ca_file = dir.write("client-ca.crt", &client_ca.pem);
    let identity = dir.identity("server", ca.sign(&params("redis", &["redis.test"])));
    let address = serve(Acceptor::new(&identity, Some(&ca_file)).unwrap()).await;

    let mut config = trusting(&dir, &ca.pem, Verify::Full);
    let connector = Connector::new(&config).unwrap();
    let text = connect(&connector, address, "redis.test")
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains("requires a client certificate"), "{text}");

    config.identity = Some(dir.identity("stranger", ca.sign(&params("app", &[]))));
    let connector = Connector::new(&config).unwrap();
    let text = connect(&connector, address, "redis.test")
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains("does not know the CA"), "{text}");

    config.identity = Some(dir.identity("client", client_ca.sign(&params("app", &[]))));
    let connector = Connector::new(&config).unwrap();
    connect(&connector, address, "redis.test").await.unwrap();
}

/// Connects to a server that answers `reply`, whatever it is sent, and closes.
async fn plain_server(reply: &'static [u8]) -> TlsError {
    let dir = Dir::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 4096];
        let _ = stream.read(&mut hello).await;
        let _ = stream.write_all(reply).await;
    });
    let connector = Connector::new(&trusting(&dir, &Ca::new("ca").pem, Verify::Full)).unwrap();
    connect(&connector, address, "redis.test")
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_server_without_tls_is_recognised() {
    for reply in [
        &b"-ERR unknown command\r\n"[..],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ] {
        let err = plain_server(reply).await;
        assert!(
            err.to_string().contains("does not speak TLS on this port"),
            "{err}"
        );
        assert_eq!(err.cause(), crate::stats::ConnectFailure::Tls);
    }
    let err = plain_server(b"").await;
    assert!(
        err.to_string().contains("may not speak TLS on this port"),
        "{err}"
    );
}

#[tokio::test]
async fn a_client_without_tls_is_recognised() {
    let dir = Dir::new();
    let identity = dir.identity("server", self_signed(&params("redis", &["redis.test"])));
    let acceptor = Acceptor::new(&identity, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    client.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    let err = acceptor
        .accept(listener.accept().await.unwrap().0)
        .await
        .unwrap_err();
    assert!(
        err.to_string()
            .contains("the client does not speak TLS on this port"),
        "{err}"
    );
}

#[test]
fn unusable_files_are_named_and_not_quoted() {
    let dir = Dir::new();
    let (cert, key) = self_signed(&params("redis", &["redis.test"]));
    let (_, other_key) = self_signed(&params("redis", &["redis.test"]));
    let secret = key.lines().nth(1).unwrap().to_owned();
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let cases = [
        (cert.clone(), other_key, "is not the private key of"),
        (cert.clone(), cert.clone(), "contains no private key"),
        (cert.clone(), encrypted, "contains an encrypted private key"),
        (cert.clone(), key.replace("-----END", "----"), "is cut off"),
        (cert, key.replacen(&secret, "!!!", 1), "is not valid PEM"),
        (key.clone(), key.clone(), "contains no certificate"),
    ];
    for (cert, key, expected) in cases {
        let identity = dir.identity("wrong", (cert, key));
        let text = Acceptor::new(&identity, None).unwrap_err().to_string();
        assert!(
            text.contains("wrong.") && text.contains(expected),
            "{expected}: {text}"
        );
        assert!(!text.contains(&secret));
    }
    let missing = dir.0.join("missing.crt");
    let config = TlsConfig {
        verify: Verify::Full,
        ca: Some(missing),
        identity: None,
        server_name: None,
    };
    let text = Connector::new(&config).unwrap_err().to_string();
    assert!(text.contains("missing.crt cannot be read"), "{text}");
}
