//! How much memory each process group of this machine holds, as the kernel counts it.
//!
//! Resident pages, summed over the group: what a limit on address space would say of a runtime that reserves far more
//! than it uses is of no use. Pages that several processes share are counted for each. Absent on purpose: processes
//! that leave their group.

use std::{collections::HashMap, fs, io};

/// Resident memory by process group. Unit: bytes.
///
/// # Errors
/// The kernel shows no processes.
pub fn by_group() -> io::Result<HashMap<i32, u64>> {
    let page = rustix::param::page_size() as u64;
    let mut groups = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let is_process = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
        // A process that ends while we look is no error.
        let stat = is_process.then(|| fs::read_to_string(path.join("stat")).ok()).flatten();
        if let Some((group, pages)) = stat.as_deref().and_then(group_and_pages) {
            *groups.entry(group).or_default() += pages * page;
        }
    }
    Ok(groups)
}

/// Fields 5 and 24 of `/proc/PID/stat`; the name in field 2 may hold anything, so the count begins behind it.
fn group_and_pages(stat: &str) -> Option<(i32, u64)> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace();
    let group = fields.nth(2)?.parse().ok()?;
    let pages = fields.nth(18)?.parse().ok()?;
    Some((group, pages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_a_name_that_looks_like_fields() {
        let stat = "7 (a) S 9 9 (b) R 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 99 1000 77 18446744073709551615";
        assert_eq!(group_and_pages(stat), Some((42, 77)));
        assert_eq!(group_and_pages("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_holds_memory() {
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        let (group, _) = group_and_pages(&own).unwrap();
        assert!(by_group().unwrap()[&group] > 1 << 20);
    }
}
