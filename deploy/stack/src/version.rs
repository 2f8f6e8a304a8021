//! Versions of parts that other people made, as they print them.

use std::fmt;

/// The first three numbers of a version; a missing third is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The first version in a text such as `nats-server: v2.15.1` or `postgres (PostgreSQL) 15.12`.
    pub fn find(text: &str) -> Option<Self> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
            let mut numbers = word.split('.').map(str::parse::<u32>);
            let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            Some(Self(major, minor, numbers.next().map_or(Some(0), Result::ok)?))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_in_a_text_is_found() {
        #[track_caller]
        fn check(text: &str, version: Option<Version>) {
            assert_eq!(Version::find(text), version, "{text}");
        }
        check("nats-server: v2.15.1", Some(Version(2, 15, 1)));
        check("nats-server: v2.16.0-RC.1", Some(Version(2, 16, 0)));
        check("postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)", Some(Version(15, 12, 0)));
        check("ClickHouse local version 26.7.2.1 (official build).", Some(Version(26, 7, 2)));
        check("v20.20.2", Some(Version(20, 20, 2)));
        check("no version 7 here", None);
        assert!(Version(2, 14, 4) > Version(2, 9, 10));
    }
}
