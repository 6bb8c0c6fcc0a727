//! The command line as a source of settings.

use super::Assignment;
use super::kind::Raw;
use super::problem::Origin;
use super::table::Setting;
use crate::cli::Flags;

/// The settings that the flags give.
pub(super) fn assignments(flags: &Flags) -> Vec<Assignment> {
    let path = |path: &std::path::PathBuf| path.display().to_string();
    let upstream = flags.upstream.as_ref().map(|url| url.expose().to_owned());
    let mut assignments = listen(&flags.listen);
    for (flag, key, value) in [
        ("--upstream", "upstream.url", upstream),
        (
            "--upstream-ca",
            "upstream.ca",
            flags.upstream_ca.as_ref().map(path),
        ),
        ("--admin", "admin.address", flags.admin.clone()),
        ("--workers", "process.workers", flags.workers.clone()),
        ("--log-format", "log.format", flags.log_format.clone()),
    ] {
        if let Some(value) = value {
            assignments.extend(assignment(flag, key, value));
        }
    }
    assignments
}

/// `--listen` may come twice, for a TCP address and a socket. A socket alone means no TCP: the flag
/// says where to listen, not where else.
fn listen(values: &[String]) -> Vec<Assignment> {
    let (mut address, mut unix) = (None, None);
    for value in values {
        match value.strip_prefix("unix:") {
            Some(path) => unix = Some(path.strip_prefix("//").unwrap_or(path).to_owned()),
            None => address = Some(value.clone()),
        }
    }
    if unix.is_some() {
        address = address.or_else(|| Some("off".to_owned()));
    }
    let address = address.and_then(|value| assignment("--listen", "listen.address", value));
    let unix = unix.and_then(|value| assignment("--listen", "listen.unix", value));
    address.into_iter().chain(unix).collect()
}

fn assignment(flag: &str, key: &str, value: String) -> Option<Assignment> {
    let setting = Setting::find(key)?;
    Some(Assignment {
        setting,
        raw: Raw::Plain(value),
        origin: Origin::flag(flag),
    })
}
