//! What the system knows of this process. Only where there is a `/proc`.

use std::fs;

/// Memory in use, in bytes.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Open files and sockets, without the one that counts them.
pub(super) fn open_files() -> Option<u64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(count.saturating_sub(1))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_and_descriptors_are_known() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1024 * 1024));
        assert!(open_files().is_some_and(|count| count >= 3));
    }
}
