//! Limits that the system sets to this process.

mod memory;

pub use self::memory::share_of_container;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are neither a client nor an upstream connection: listeners, the admin endpoint
/// and its clients, one poller per worker, standard streams, files being read.
const RESERVED: usize = 64;

/// Soft limit to try where the hard limit is "unlimited" or refused: macOS allows no more.
const FALLBACK: u64 = 10_240;

/// How many files and sockets this process may have open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// The limit in force; `u64::MAX` is none.
    pub soft: u64,
    /// What the soft limit may be raised to; `u64::MAX` is none.
    pub hard: u64,
    /// A sentence for the log, where the limit is too low for the connections configured.
    pub warning: Option<String>,
}

/// The memory of this process holds passwords and what clients send: it is not written to disk when the
/// process crashes, and no other process of the same user may look into it.
pub fn forbid_core_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // A system that does not let a process be more careful is as it was.
    let _ = setrlimit(Resource::Core, none);
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Raises the limit on open files as far as this process may, and compares it with what
/// `max_clients` clients and `max_connections` upstream connections need.
pub fn raise_open_files(max_clients: usize, max_connections: usize) -> OpenFiles {
    let before = getrlimit(Resource::Nofile);
    if before.current != before.maximum {
        let raised = Rlimit {
            current: before.maximum,
            ..before
        };
        let fallback = Rlimit {
            current: Some(FALLBACK),
            ..before
        };
        // Where neither works the limit stays as it is, and is reported as it is.
        let _ = setrlimit(Resource::Nofile, raised).or_else(|err| match before.current {
            Some(soft) if soft < FALLBACK => setrlimit(Resource::Nofile, fallback),
            _ => Err(err),
        });
    }
    let after = getrlimit(Resource::Nofile);
    let soft = after.current.unwrap_or(u64::MAX);
    OpenFiles {
        soft,
        hard: after.maximum.unwrap_or(u64::MAX),
        warning: warning(soft, max_clients, max_connections),
    }
}

/// How many of `max_clients` clients the limit on open files leaves room for, beside the upstream
/// connections and what else needs a descriptor.
pub fn clients_that_fit(max_clients: usize, max_connections: usize) -> usize {
    let soft = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let soft = usize::try_from(soft).unwrap_or(usize::MAX);
    room(soft, max_connections).clamp(1, max_clients.max(1))
}

fn room(soft: usize, max_connections: usize) -> usize {
    soft.saturating_sub(max_connections.saturating_add(RESERVED))
}

fn warning(soft: u64, max_clients: usize, max_connections: usize) -> Option<String> {
    let connections = max_clients.saturating_add(max_connections);
    let needed = connections.saturating_add(RESERVED) as u64;
    let room = room(usize::try_from(soft).unwrap_or(usize::MAX), max_connections);
    (soft < needed).then(|| {
        format!(
            "only {soft} files may be open at once, which leaves room for {room} clients instead of \
             {max_clients} (listen.max_clients): raise the limit to {needed} (ulimit -n)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_limit() {
        let limits = raise_open_files(1, 1);
        assert_eq!(limits.soft, limits.hard);
        assert_eq!(limits.warning, None);
        assert_eq!(raise_open_files(1, 1), limits);
    }

    #[test]
    fn a_limit_below_the_configured_connections_is_explained() {
        let text = warning(1024, 10_000, 10).expect("1024 is too low");
        assert!(text.contains("only 1024 files"), "{text}");
        assert!(
            text.contains("room for 950 clients instead of 10000"),
            "{text}"
        );
        assert!(text.contains("raise the limit to 10074"), "{text}");
        assert_eq!(warning(10_074, 10_000, 10), None);
        assert!(warning(20, 10_000, 10).is_some_and(|text| text.contains("room for 0 clients")));
    }
}
