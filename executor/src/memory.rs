//! How much memory there is: the machine's, or what the container of this process may have of it.

use std::path::Path;

/// Where nothing says how much there is.
const UNKNOWN_BYTES: u64 = 4 << 30;

/// Memory that this process may use, with all others of its container.
pub(crate) fn memory_bytes() -> u64 {
    let of_machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limits(Path::new("/sys/fs/cgroup"), &groups);
    limits.into_iter().chain(of_machine).min().unwrap_or(UNKNOWN_BYTES)
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// The limits of the control groups of a process, as `/proc/self/cgroup` names them, and of those above. Inside a
/// container the root may be its own group, whatever the name says.
fn limits(root: &Path, groups: &str) -> Vec<u64> {
    let mut found = vec![];
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        // Version 2 has one hierarchy, version 1 one for each controller.
        let (root, file) = match controllers {
            "" => (root.to_path_buf(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let group = root.join(group.trim_start_matches('/'));
        for folder in group.ancestors().take_while(|folder| folder.starts_with(&root)) {
            let limit = std::fs::read_to_string(folder.join(file)).ok();
            found.extend(limit.and_then(|limit| limit.trim().parse::<u64>().ok()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the tightest limit counts, of both versions, and "max" is none.
    #[test]
    fn limits_of_containers_are_found() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/memory.max", "max\n");
        write("a/b/memory.max", "1000\n");
        write("memory/c/memory.limit_in_bytes", "2000\n");
        assert_eq!(limits(root.path(), "0::/a/b/gone\n"), [1000]);
        assert!(limits(root.path(), "0::/a\n").is_empty());
        assert_eq!(limits(root.path(), "4:cpu:/x\n5:memory,hugetlb:/c/d\n"), [2000]);
        write("memory.max", "500\n");
        assert_eq!(limits(root.path(), "0::/elsewhere\n"), [500]);
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 << 20));
    }
}
