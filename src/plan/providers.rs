//! Connection limits that providers document.
//!
//! Only figures that stand in a provider's own documentation; where it gives none, the row says so.
//! Limits change: each row says when it was read and where, and `--max-clients` overrules it.

/// One plan of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provider {
    /// What `--provider` takes.
    pub name: &'static str,
    /// What the provider calls it.
    pub plan: &'static str,
    /// Connections at a time; `None` where no figure is documented.
    pub max_clients: Option<usize>,
    /// Where the figure stands.
    pub source: &'static str,
    /// When it was read there; the page itself may be older.
    pub as_of: &'static str,
    /// What else to know of it.
    pub note: &'static str,
}

const REDIS_CLOUD: &str = "Redis Cloud documentation, Essentials plans";
const MEMORYSTORE: &str = "Memorystore for Redis documentation, quotas and in-transit encryption";
const MEMORYSTORE_VALKEY: &str = "Memorystore for Valkey documentation, quotas";
const AZURE: &str = "Azure Cache for Redis documentation, planning FAQ (an older copy)";
const READ: &str = "2026-11";

const fn row(
    name: &'static str,
    plan: &'static str,
    max_clients: usize,
    source: &'static str,
    note: &'static str,
) -> Provider {
    Provider {
        name,
        plan,
        max_clients: Some(max_clients),
        source,
        as_of: READ,
        note,
    }
}

const fn unknown(name: &'static str, plan: &'static str, note: &'static str) -> Provider {
    Provider {
        name,
        plan,
        max_clients: None,
        source: "no figure documented",
        as_of: READ,
        note,
    }
}

/// All plans; within a family (the name up to its last dash) smaller ones first.
#[rustfmt::skip]
pub const PROVIDERS: &[Provider] = &[
    row("redis-cloud-30", "Redis Cloud Essentials 30 MB (free)", 30, REDIS_CLOUD, "no TLS on this plan"),
    row("redis-cloud-256", "Redis Cloud Essentials 250 MB", 256, REDIS_CLOUD, ""),
    row("redis-cloud-1024", "Redis Cloud Essentials 1 GB", 1024, REDIS_CLOUD, ""),
    row("redis-cloud-2500", "Redis Cloud Essentials 2.5 GB", 2500, REDIS_CLOUD, ""),
    row("redis-cloud-5000", "Redis Cloud Essentials 5 GB", 5000, REDIS_CLOUD, ""),
    row("redis-cloud-10000", "Redis Cloud Essentials 12 GB", 10_000, REDIS_CLOUD, ""),
    row("memorystore-tls-1000", "Memorystore for Redis up to 6.x with TLS, 1 to 4 GB", 1000, MEMORYSTORE, "without TLS, and from 7.0 on, the limit is 65,000"),
    row("memorystore-65000", "Memorystore for Redis", 65_000, MEMORYSTORE, "up to 6.x with TLS the limit is lower and depends on the size"),
    row("memorystore-valkey-nano", "Memorystore for Valkey, shared-core-nano, each node", 5000, MEMORYSTORE_VALKEY, ""),
    row("memorystore-valkey-small", "Memorystore for Valkey, standard-small, each node", 16_000, MEMORYSTORE_VALKEY, "can be raised to 32,000"),
    row("memorystore-valkey-medium", "Memorystore for Valkey, highmem-medium, each node", 32_000, MEMORYSTORE_VALKEY, "can be raised to 64,000"),
    row("memorystore-valkey-xlarge", "Memorystore for Valkey, highmem-xlarge, each node", 64_000, MEMORYSTORE_VALKEY, ""),
    row("azure-c0", "Azure Cache for Redis C0", 256, AZURE, ""),
    row("azure-c1", "Azure Cache for Redis C1", 1000, AZURE, ""),
    row("azure-c2", "Azure Cache for Redis C2", 2000, AZURE, ""),
    row("azure-c3", "Azure Cache for Redis C3", 5000, AZURE, ""),
    row("azure-c4", "Azure Cache for Redis C4", 10_000, AZURE, ""),
    row("azure-c5", "Azure Cache for Redis C5", 15_000, AZURE, ""),
    row("azure-c6", "Azure Cache for Redis C6", 20_000, AZURE, ""),
    row("azure-p1", "Azure Cache for Redis P1", 7500, AZURE, ""),
    row("azure-p2", "Azure Cache for Redis P2", 15_000, AZURE, ""),
    row("azure-p3", "Azure Cache for Redis P3", 30_000, AZURE, ""),
    row("azure-p4", "Azure Cache for Redis P4", 40_000, AZURE, ""),
    row("redis", "Redis or Valkey of your own, as delivered", 10_000, "redis.conf, maxclients", "the open-file limit can lower it: CONFIG GET maxclients tells"),
    unknown("upstash", "Upstash", "there is a limit (ERR max concurrent connections exceeded): ask for yours"),
    unknown("elasticache", "ElastiCache", "node types and engines differ: CloudWatch's CurrConnections shows what is in use"),
    unknown("render", "Render Key Value", "depends on the instance type: the dashboard shows it"),
];

impl Provider {
    /// The row of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PROVIDERS.iter().find(|row| row.name == name)
    }

    /// The names closest to one that does not exist: those that begin alike.
    pub fn alike(name: &str) -> Vec<&'static str> {
        let head = name.split('-').next().unwrap_or_default();
        let alike = PROVIDERS.iter().map(|row| row.name);
        alike
            .filter(|known| !head.is_empty() && known.starts_with(head))
            .collect()
    }

    /// The next larger plan of the same provider with room for `clients`.
    pub fn larger(&self, clients: usize) -> Option<&'static Self> {
        let family = |name: &str| name.rsplit_once('-').map(|(family, _)| family.to_owned());
        let own = family(self.name)?;
        let rows = PROVIDERS
            .iter()
            .filter(|row| family(row.name).as_ref() == Some(&own));
        rows.filter(|row| row.max_clients >= Some(clients) && row.max_clients > self.max_clients)
            .min_by_key(|row| row.max_clients)
    }
}
