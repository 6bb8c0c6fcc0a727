//! How much memory the container lets this process use.

use std::fs;
use std::path::{Path, PathBuf};

/// The part of the container's limit that this process takes for itself, in percent. The rest is for the
/// kernel's socket buffers, which count against the same limit, and for what the allocator cannot reuse.
const SHARE: u64 = 60;

/// Less than this is of no use.
const LEAST: u64 = 32 << 20;

/// Kernels that know no limit show a number near 2^63.
const NO_LIMIT: u64 = 1 << 60;

/// The share of the container's memory that is for this process, in bytes; 0 where there is no limit.
pub fn share_of_container() -> usize {
    let limit = container_limit(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
    let share = limit.map_or(0, |bytes| (bytes / 100 * SHARE).max(LEAST));
    usize::try_from(share).unwrap_or(usize::MAX)
}

/// The lowest limit on the way from this process' group to the root of the groups that are seen here.
fn container_limit(groups: &Path, root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(groups).unwrap_or_default();
    let own = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let path = path.trim_start_matches('/').to_owned();
        match controllers {
            "" => Some((root.to_owned(), path, "memory.max")),
            _ if controllers.split(',').any(|name| name == "memory") => {
                Some((root.join("memory"), path, "memory.limit_in_bytes"))
            }
            _ => None,
        }
    };
    groups
        .lines()
        .filter_map(own)
        .flat_map(|(root, path, file)| limits_above(root, &path, file))
        .min()
}

/// The limits of a group and of those that it is part of. A container may be told its path on the
/// host, which it does not see: its own limit is then that of the root.
fn limits_above(root: PathBuf, path: &str, file: &'static str) -> Vec<u64> {
    let group = root.join(path);
    group
        .ancestors()
        .take_while(|group| group.starts_with(&root))
        .filter_map(|group| fs::read_to_string(group.join(file)).ok())
        .filter_map(|text| text.trim().parse().ok())
        .filter(|limit| *limit < NO_LIMIT)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(PathBuf);

    impl Machine {
        /// A machine with these files below its `/sys/fs/cgroup`, and this `/proc/self/cgroup`.
        fn new(name: &str, groups: &str, files: &[(&str, &str)]) -> Self {
            let id = std::process::id();
            let root = std::env::temp_dir().join(format!("nearkey-cgroup-{id}-{name}"));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("a directory")).expect("made");
                fs::write(path, text).expect("written");
            }
            fs::create_dir_all(&root).expect("made");
            fs::write(root.join("groups"), groups).expect("written");
            Self(root)
        }

        fn limit(&self) -> Option<u64> {
            container_limit(&self.0.join("groups"), &self.0)
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_lowest_limit_above_the_process_counts() {
        let files = [
            ("a/memory.max", "1000\n"),
            ("a/b/memory.max", "max\n"),
            ("a/b/c/memory.max", "3000\n"),
        ];
        let unified = Machine::new("unified", "0::/a/b/c\n", &files);
        assert_eq!(unified.limit(), Some(1000));
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/x/memory.limit_in_bytes", "5000\n"),
        ];
        let groups = "4:cpu,cpuacct:/x\n3:name=systemd:/\n2:memory:/x\n";
        assert_eq!(Machine::new("old", groups, &files).limit(), Some(5000));
    }

    #[test]
    fn a_container_that_is_told_a_path_of_the_host_has_the_limit_of_its_root() {
        let files = [("memory/memory.limit_in_bytes", "268435456\n")];
        let hidden = Machine::new("hidden", "2:memory:/docker/0a1b\n", &files);
        assert_eq!(hidden.limit(), Some(256 << 20));
        let files = [("memory.max", "268435456\n")];
        let own = Machine::new("own", "0::/\n", &files);
        assert_eq!(own.limit(), Some(256 << 20));
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!(Machine::new("none", "0::/\n", &[]).limit(), None);
        let files = [("memory.max", "max\n")];
        assert_eq!(Machine::new("max", "0::/\n", &files).limit(), None);
        let files = [("memory/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(Machine::new("far", "2:memory:/\n", &files).limit(), None);
        let missing = Path::new("/no/such/file");
        assert_eq!(container_limit(missing, missing), None);
    }
}
