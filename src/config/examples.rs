//! `nearkey config --example`: a settings file to start from, for each provider.

/// Names of the files, in the order in which people read them.
pub const EXAMPLES: [&str; 7] = [
    "upstash",
    "memorystore",
    "redis-cloud",
    "elasticache",
    "render",
    "azure",
    "local",
];

/// The text of one of [`EXAMPLES`].
pub fn example(name: &str) -> Option<&'static str> {
    Some(match name {
        "upstash" => include_str!("examples/upstash.toml"),
        "memorystore" => include_str!("examples/memorystore.toml"),
        "redis-cloud" => include_str!("examples/redis-cloud.toml"),
        "elasticache" => include_str!("examples/elasticache.toml"),
        "render" => include_str!("examples/render.toml"),
        "azure" => include_str!("examples/azure.toml"),
        "local" => include_str!("examples/local.toml"),
        _ => return None,
    })
}
