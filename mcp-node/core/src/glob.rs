//! Patterns of tool names: `*` stands for any run of characters, everything else for itself, byte for byte.

use crate::message::LONGEST_NAME;

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glob(String);

impl Glob {
    /// A pattern; `None` = it is empty, or longer than any tool's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (1..=LONGEST_NAME).contains(&text.len()).then(|| Self(text.to_owned()))
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for this name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut pieces = self.0.split('*');
        let first = pieces.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let Some(last) = pieces.next_back() else { return rest.is_empty() };
        for piece in pieces {
            match rest.find(piece) {
                Some(place) => rest = &rest[place + piece.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }

    /// How much it says: exact patterns before others, then those with more characters that stand for themselves.
    #[must_use]
    pub fn weight(&self) -> (bool, usize) {
        let stars = self.0.bytes().filter(|byte| *byte == b'*').count();
        (stars == 0, self.0.len() - stars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_run_of_characters() {
        let matches = |glob: &str, name: &str| Glob::parse(glob).unwrap().matches(name);
        for (glob, name) in [
            ("echo", "echo"),
            ("*", ""),
            ("*", "any"),
            ("search*", "search"),
            ("search*", "search_web"),
            ("*_web", "search_web"),
            ("a*b*c", "abbc"),
            ("a*b*c", "a1b2b3c"),
            ("a**c", "abc"),
        ] {
            assert!(matches(glob, name), "{glob} {name}");
        }
        for (glob, name) in [
            ("echo", "Echo"),
            ("echo", "echo2"),
            ("search*", "research"),
            ("a*b*c", "acb"),
            ("ab*bc", "abc"),
            ("a*a", "a"),
        ] {
            assert!(!matches(glob, name), "{glob} {name}");
        }
        assert_eq!(Glob::parse(""), None);
    }
}
