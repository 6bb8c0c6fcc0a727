//! What INFO tells of the server: for metrics and `nearkey check`.

/// What of INFO is shown; `None` where the server does not tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerInfo {
    /// Memory of its data, in bytes.
    pub memory_used: Option<u64>,
    /// `maxmemory` in bytes; zero is no limit.
    pub memory_max: Option<u64>,
    /// What happens beyond it: `maxmemory-policy`.
    pub eviction_policy: Option<String>,
    /// Keys evicted for want of memory since its start.
    pub evicted_keys: Option<u64>,
    /// Clients of all kinds and hosts.
    pub clients: Option<u64>,
    /// Most clients that it takes.
    pub max_clients: Option<u64>,
    /// CPU seconds in its own code, since its start.
    pub cpu_user: Option<f64>,
    /// CPU seconds in the kernel, since its start.
    pub cpu_sys: Option<f64>,
    /// `master` or `slave`.
    pub role: Option<String>,
    /// It is a replica that has lost its master.
    pub master_is_down: bool,
    /// It reads its data from disk still.
    pub is_loading: bool,
    /// It is a node of a cluster.
    pub is_cluster: bool,
}

impl ServerInfo {
    /// Reads the text of INFO; what it does not understand it leaves out.
    pub fn parse(text: &[u8]) -> Self {
        let mut info = Self::default();
        for line in String::from_utf8_lossy(text).lines() {
            if let Some((name, value)) = line.trim_end().split_once(':') {
                info.set(name, value);
            }
        }
        info
    }

    fn set(&mut self, name: &str, value: &str) {
        let number = || value.parse().ok();
        let seconds = || value.parse().ok();
        match name {
            "used_memory" => self.memory_used = number(),
            "maxmemory" => self.memory_max = number(),
            "maxmemory_policy" => self.eviction_policy = Some(value.to_owned()),
            "evicted_keys" => self.evicted_keys = number(),
            "connected_clients" => self.clients = number(),
            "maxclients" => self.max_clients = number(),
            "used_cpu_user" => self.cpu_user = seconds(),
            "used_cpu_sys" => self.cpu_sys = seconds(),
            "role" => self.role = Some(value.to_owned()),
            "master_link_status" => self.master_is_down = value != "up",
            "loading" => self.is_loading = value != "0",
            "cluster_enabled" => self.is_cluster = value == "1",
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_tells_is_read_and_the_rest_left_out() {
        let text = b"# Clients\r\nconnected_clients:12\r\nmaxclients:50\r\n\r\n# Memory\r\n\
            used_memory:1048576\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\nnonsense\r\n\
            evicted_keys:x\r\n# CPU\r\nused_cpu_user:1.5\r\nrole:slave\r\nmaster_link_status:down\r\n\
            loading:0\r\ncluster_enabled:1\r\n";
        let info = ServerInfo::parse(text);
        let expected = ServerInfo {
            memory_used: Some(1 << 20),
            memory_max: Some(0),
            eviction_policy: Some("noeviction".to_owned()),
            clients: Some(12),
            max_clients: Some(50),
            cpu_user: Some(1.5),
            role: Some("slave".to_owned()),
            master_is_down: true,
            is_cluster: true,
            ..ServerInfo::default()
        };
        assert_eq!(info, expected);
        assert_eq!(ServerInfo::parse(b"\xff:\r\n"), ServerInfo::default());
    }
}
