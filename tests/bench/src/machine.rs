//! What processes use of the machine, as the kernel counts it in `/proc`.

use std::{collections::BTreeMap, fs};

use crate::{Outcome, report::measure};

/// CPU time of some processes and all below them. Unit: seconds, user and system together.
///
/// A descendant that ended is in the sum once its parent has waited for it.
pub fn cpu_seconds(roots: &[u32]) -> Outcome<f64> {
    let mut stats = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A process that is gone by now uses nothing any more.
        if let Some(stat) =
            fs::read_to_string(format!("/proc/{pid}/stat")).ok().as_deref().and_then(parse)
        {
            stats.insert(pid, stat);
        }
    }
    let below = |mut pid: u32| {
        while !roots.contains(&pid) {
            match stats.get(&pid) {
                Some(stat) if stat.parent != 0 => pid = stat.parent,
                _ => return false,
            }
        }
        true
    };
    let ticks: u64 = stats.iter().filter(|(pid, _)| below(**pid)).map(|(_, stat)| stat.ticks).sum();
    Ok(measure(ticks) / measure(rustix::param::clock_ticks_per_second()))
}

/// CPU time of this process alone. Unit: seconds.
pub fn own_cpu_seconds() -> Outcome<f64> {
    let line = fs::read_to_string("/proc/self/stat")?;
    let stat = parse(&line).ok_or("/proc/self/stat cannot be read")?;
    Ok(measure(stat.own_ticks) / measure(rustix::param::clock_ticks_per_second()))
}

struct Stat {
    parent: u32,
    /// Its own time.
    own_ticks: u64,
    /// Its own and that of the children that it has waited for.
    ticks: u64,
}

/// Reads a line of `/proc/PID/stat`; the name may hold anything, so the fields begin behind the last bracket.
fn parse(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    // Fields 4 (parent), 14 to 17 (own and waited-for children's time) of proc_pid_stat(5), counted from 3 here.
    let own_ticks = number(11)? + number(12)?;
    let ticks = own_ticks + number(13)? + number(14)?;
    Some(Stat { parent: u32::try_from(number(1)?).ok()?, own_ticks, ticks })
}

/// Memory that a process holds. Unit: MiB.
pub fn rss_mib(pid: u32) -> Outcome<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024)
}

/// The rate of `count` in `wall_s`, of one core: what used more than one core is divided by the cores it used.
pub fn per_core(count: u64, wall_s: f64, cpu_s: f64) -> f64 {
    measure(count) / wall_s.max(cpu_s)
}

/// The machine in words, for the lines above the figures.
pub fn describe() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned());
    let mut models = cpus.lines().filter(|line| line.starts_with("model name")).filter_map(value);
    let model = models.next().unwrap_or_else(|| "unknown CPU".to_owned());
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 =
        kib.and_then(|text| text.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0);
    format!("{} cores ({model}), {} GiB", models.count() + 1, kib.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_behind_the_name() {
        let line = "7 (a) b (c)) S 3 7 7 0 -1 4 1 2 3 4 10 20 30 40 20 0 1 0 5";
        let stat = parse(line).unwrap();
        assert_eq!((stat.parent, stat.own_ticks, stat.ticks), (3, 30, 100));
    }

    #[test]
    fn one_core_is_never_counted_as_more() {
        assert!((per_core(100, 2.0, 1.0) - 50.0).abs() < 1e-9, "less than a core: by the wall");
        assert!((per_core(100, 2.0, 4.0) - 25.0).abs() < 1e-9, "two cores: by CPU time");
    }
}
