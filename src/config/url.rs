//! Redis URLs: `redis://`, `rediss://`, `upstash://`, `unix://` and the spellings beside them.
//!
//! The parser accepts what Redis clients accept and is strict about the rest. A URL usually holds a
//! password, so an error never repeats any part of it, and [`Url`] prints without its user part.

use std::fmt;
use std::path::PathBuf;

use super::value;
use crate::secret::Secret;
use crate::upstream::Address;

const DEFAULT_PORT: u16 = 6379;

/// Written by `nearkey config` in place of a secret, and refused when it comes back.
pub(super) const HIDDEN: &str = "<hidden>";

/// What a URL says of the upstream; what it leaves out is `None`.
pub(super) struct Url {
    scheme: Scheme,
    pub(super) address: Address,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) database: Option<u32>,
    /// `full`, `ca` or `none`, from redis-py's `ssl_cert_reqs` and `ssl_check_hostname`.
    pub(super) verify: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Plain,
    Tls,
    Unix,
}

impl Url {
    /// Parses a URL; the error is the end of a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.contains(HIDDEN) {
            return Err(hidden_came_back());
        }
        if text.starts_with(['"', '\'']) {
            return Err(
                "is wrapped in quotes: remove them (an env file keeps them as part of the value)"
                    .to_owned(),
            );
        }
        let (scheme, rest) = split_scheme(text)?;
        match scheme {
            Scheme::Unix => Self::unix(rest),
            _ => Self::tcp(scheme, rest),
        }
    }

    /// Whether the scheme itself asks for TLS.
    pub(super) fn asks_for_tls(&self) -> bool {
        self.scheme == Scheme::Tls
    }

    fn tcp(scheme: Scheme, rest: &str) -> Result<Self, String> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if tail.contains('@') {
            return Err("has a character in its user or password that must be percent-encoded: / as %2F, ? as %3F, # as %23".to_owned());
        }
        let (userinfo, host) = split_userinfo(authority);
        let (host, port) = host_and_port(host)?;
        let mut url = Self::new(scheme, Address::Tcp { host, port });
        url.set_userinfo(userinfo)?;
        let (path, query) = split_query(tail)?;
        url.database = database_of_path(path)?;
        url.set_query(query)?;
        Ok(url)
    }

    /// `unix://[user[:password]@]/path/to/socket[?db=0&password=..]`, as redis-py has it.
    fn unix(rest: &str) -> Result<Self, String> {
        let start = rest.find('/').ok_or_else(not_absolute)?;
        let (authority, tail) = rest.split_at(start);
        let (userinfo, host) = split_userinfo(authority);
        if !host.is_empty() {
            return Err(not_absolute());
        }
        let (path, query) = split_query(tail)?;
        let path = PathBuf::from(decode(path)?);
        let mut url = Self::new(Scheme::Unix, Address::Unix(path));
        url.set_userinfo(userinfo)?;
        url.set_query(query)?;
        Ok(url)
    }

    fn new(scheme: Scheme, address: Address) -> Self {
        Self {
            scheme,
            address,
            username: None,
            password: None,
            database: None,
            verify: None,
        }
    }

    fn set_userinfo(&mut self, userinfo: &str) -> Result<(), String> {
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        self.username = Some(decode(user)?).filter(|user| !user.is_empty());
        self.password = secret(decode(password)?);
        Ok(())
    }

    fn set_query(&mut self, query: &str) -> Result<(), String> {
        let (mut cert_reqs, mut check_hostname) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
            let text = decode(text)?;
            match name {
                "db" => self.database = Some(database(&text)?),
                "password" if self.scheme == Scheme::Unix => self.password = secret(text),
                "ssl_cert_reqs" => cert_reqs = Some(text),
                "ssl_check_hostname" => check_hostname = Some(text),
                _ => return Err(unknown_parameter(name)),
            }
        }
        self.verify = verify(cert_reqs.as_deref(), check_hostname.as_deref())?;
        Ok(())
    }
}

/// The URL in its shortest form, its user part hidden.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scheme {
            Scheme::Plain => "redis://",
            Scheme::Tls => "rediss://",
            Scheme::Unix => "unix://",
        })?;
        if self.username.is_some() || self.password.is_some() {
            write!(f, "{HIDDEN}@")?;
        }
        write!(f, "{}", self.address)?;
        match (self.scheme, self.database) {
            (_, None) => {}
            (Scheme::Unix, Some(database)) => write!(f, "?db={database}")?,
            (_, Some(database)) => write!(f, "/{database}")?,
        }
        Ok(())
    }
}

/// Maps redis-py's two settings onto `upstream.verify`.
///
/// `optional` is as strict as `required`: Python's ssl module gives both the same meaning on the
/// client's side. Only `none` gives up the check of the certificate.
pub(super) fn verify(
    cert_reqs: Option<&str>,
    check_hostname: Option<&str>,
) -> Result<Option<&'static str>, String> {
    let check_hostname = check_hostname.map(value::boolean).transpose()?;
    let chain = match cert_reqs.map(str::to_ascii_lowercase).as_deref() {
        Some("none") => return Ok(Some("none")),
        Some("required" | "optional") => Some("full"),
        None => None,
        Some(_) => return Err("must be required, optional or none".to_owned()),
    };
    Ok(match check_hostname {
        Some(false) => Some("ca"),
        Some(true) => Some("full"),
        None => chain,
    })
}

/// Whether this can be a host: a DNS name or an IP address, without brackets.
pub(super) fn is_host(host: &str) -> bool {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(allowed)
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Why a value that holds [`HIDDEN`] is refused.
pub(super) fn hidden_came_back() -> String {
    format!(
        "holds {HIDDEN}, which `nearkey config` prints in place of a secret: write the secret itself"
    )
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), String> {
    // One slash is enough for a path: `unix:/run/redis.sock`.
    if let Some(path) = text.strip_prefix("unix:/").filter(|p| !p.starts_with('/')) {
        let slash = text.len() - path.len() - 1;
        return Ok((Scheme::Unix, &text[slash..]));
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let kind = match scheme.to_ascii_lowercase().as_str() {
        "redis" | "valkey" => Scheme::Plain,
        "rediss" | "valkeys" | "upstash" => Scheme::Tls,
        "unix" | "redis+unix" | "redis+socket" => Scheme::Unix,
        "http" | "https" => return Err("is an HTTP address, such as Upstash's REST URL; Nearkey needs the Redis one: rediss://default:PASSWORD@HOST:6379".to_owned()),
        "redis+sentinel" | "redis-sentinel" | "redis+cluster" => return Err("names Sentinel or Cluster; write the address of one server: redis://HOST:6379".to_owned()),
        _ => return Err("must begin with redis:// (plain), rediss:// (TLS), upstash:// or unix://".to_owned()),
    };
    Ok((kind, rest))
}

/// The user part and the rest. The last `@` divides them: clients let a password hold one.
fn split_userinfo(authority: &str) -> (&str, &str) {
    authority.rsplit_once('@').unwrap_or(("", authority))
}

fn split_query(tail: &str) -> Result<(&str, &str), String> {
    if tail.contains('#') {
        return Err(
            "has a # part, which means nothing here (in a password it is written %23)".to_owned(),
        );
    }
    Ok(tail.split_once('?').unwrap_or((tail, "")))
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("has a [ without its ]")?;
            match after {
                "" => (host, None),
                _ => (
                    host,
                    Some(
                        after
                            .strip_prefix(':')
                            .ok_or("has something between ] and the port")?,
                    ),
                ),
            }
        }
        None if text.matches(':').count() > 1 => {
            return Err("has an IPv6 address without brackets: write [::1]:6379".to_owned());
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("names no host: redis://HOST:6379".to_owned());
    }
    if !is_host(host) {
        return Err(
            "names a host that is neither a DNS name nor an IP address (is it a placeholder?)"
                .to_owned(),
        );
    }
    Ok((host.to_owned(), port.map_or(Ok(DEFAULT_PORT), parse_port)?))
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ if is_port_placeholder(text) => Err(format!(
            "has the placeholder \"{text}\" for its port: write the number that your provider shows, such as 6379"
        )),
        _ => Err("has a port that is not a number from 1 to 65535".to_owned()),
    }
}

/// The word "port" in any dress. Nothing else is repeated: it could be part of a password.
fn is_port_placeholder(text: &str) -> bool {
    let word = text.trim_matches(|c: char| c.is_ascii_punctuation());
    word.eq_ignore_ascii_case("port")
}

fn database_of_path(path: &str) -> Result<Option<u32>, String> {
    match path.trim_matches('/') {
        "" => Ok(None),
        digits => database(digits).map(Some),
    }
}

fn database(digits: &str) -> Result<u32, String> {
    digits
        .parse()
        .map_err(|_| "has a database that is not a number: redis://HOST:6379/0".to_owned())
}

fn unknown_parameter(name: &str) -> String {
    let plain = name.len() <= 40 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let name = if plain { name } else { "given" };
    format!(
        "has the query parameter {name}, which Nearkey does not know; it knows db, ssl_cert_reqs and ssl_check_hostname"
    )
}

fn not_absolute() -> String {
    "needs the absolute path of a socket: unix:///run/redis.sock".to_owned()
}

fn secret(text: String) -> Option<Secret> {
    (!text.is_empty()).then(|| Secret::new(text))
}

/// Percent-decoding as clients do it: a `%` that begins no escape stands for itself.
fn decode(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match escape_at(bytes, at) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).map_err(|_| "has an escape that is not UTF-8".to_owned())
}

fn escape_at(bytes: &[u8], at: usize) -> Option<u8> {
    let hex = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    if bytes[at] != b'%' {
        return None;
    }
    u8::try_from(hex(at + 1)? * 16 + hex(at + 2)?).ok()
}
