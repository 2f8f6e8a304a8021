//! Whole numbers at places in a JSON text, read in one borrowed pass.
//!
//! A place is a JSON pointer (RFC 6901), taken apart. Only the way to a place is looked at; whatever lies beside it is
//! skipped without being built. What is unclear is no number: a member that stands twice on the way could be read in
//! two ways, so nothing is counted for it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The longest way to a place. Unit: members.
pub const DEEPEST: usize = 32;

/// A JSON pointer, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Takes a pointer apart; `None` = it is none, is empty, or is deeper than [`DEEPEST`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let members =
            text.strip_prefix('/')?.split('/').map(unescaped).collect::<Option<Vec<_>>>()?;
        (members.len() <= DEEPEST).then_some(Self(members))
    }
}

/// `~1` is a slash and `~0` a tilde; a tilde before anything else means nothing.
fn unescaped(member: &str) -> Option<String> {
    let mut parts = member.split('~');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let tilde = part.strip_prefix('0').map(|rest| ('~', rest));
        let (sign, rest) = tilde.or_else(|| part.strip_prefix('1').map(|rest| ('/', rest)))?;
        text.push(sign);
        text.push_str(rest);
    }
    Some(text)
}

/// What stands at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PointerValue {
    #[default]
    Absent,
    Number(u64),
    /// A whole number below zero.
    Negative,
    /// No whole number, or one over `u64::MAX`, or something that could be read in two ways.
    Unclear,
}

/// What stands in `text` at `root` and then each of `places`, in their order. A text that is no JSON has nothing.
#[must_use]
pub fn find(text: &str, root: &[&str], places: &[&Pointer]) -> Vec<PointerValue> {
    let ways = places.iter().enumerate().map(|(number, place)| RemainingPath {
        number,
        root,
        rest: &place.0,
    });
    let mut found = vec![PointerValue::Absent; places.len()];
    let seed = Walk { ways: ways.collect(), found: &mut found };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    if seed.deserialize(&mut deserializer).is_err() {
        found.fill(PointerValue::Absent);
    }
    found
}

/// What is left of the way to one place.
#[derive(Clone, Copy)]
struct RemainingPath<'p> {
    number: usize,
    root: &'p [&'p str],
    rest: &'p [String],
}

impl<'p> RemainingPath<'p> {
    fn next(&self) -> Option<(&'p str, Self)> {
        match (self.root.split_first(), self.rest.split_first()) {
            (Some((next, root)), _) => Some((next, Self { root, ..*self })),
            (None, Some((next, rest))) => Some((next, Self { rest, ..*self })),
            (None, None) => None,
        }
    }
}

/// The ways that lead through one value.
struct Walk<'p, 'f> {
    ways: Vec<RemainingPath<'p>>,
    found: &'f mut [PointerValue],
}

impl<'p> Walk<'p, '_> {
    /// Those that go on through `member`.
    fn through(&self, member: &str) -> Vec<RemainingPath<'p>> {
        self.ways
            .iter()
            .filter_map(RemainingPath::next)
            .filter(|(next, _)| *next == member)
            .map(|(_, rest)| rest)
            .collect()
    }

    /// Says what stands where a way ends here.
    fn ends(&mut self, what: PointerValue) {
        for way in self.ways.iter().filter(|way| way.next().is_none()) {
            self.found[way.number] = what;
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.ends(PointerValue::Unclear);
        let mut seen: Vec<usize> = Vec::new();
        while let Some(Member(ways)) = map.next_key_seed(Name(&self))? {
            if ways.is_empty() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let twice = ways.iter().any(|way| seen.contains(&way.number));
            let numbers: Vec<usize> = ways.iter().map(|way| way.number).collect();
            map.next_value_seed(Walk { ways, found: &mut *self.found })?;
            if twice {
                numbers.iter().for_each(|number| self.found[*number] = PointerValue::Unclear);
            }
            seen.extend(numbers);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.ends(PointerValue::Unclear);
        for place in 0usize.. {
            let ways = self.through(&place.to_string());
            let more = if ways.is_empty() {
                seq.next_element::<IgnoredAny>()?.is_some()
            } else {
                seq.next_element_seed(Walk { ways, found: &mut *self.found })?.is_some()
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_u64<E>(mut self, number: u64) -> Result<(), E> {
        self.ends(PointerValue::Number(number));
        Ok(())
    }

    fn visit_i64<E>(mut self, number: i64) -> Result<(), E> {
        self.ends(if number < 0 {
            PointerValue::Negative
        } else {
            PointerValue::Number(number.unsigned_abs())
        });
        Ok(())
    }

    fn visit_f64<E>(mut self, _: f64) -> Result<(), E> {
        self.ends(PointerValue::Unclear);
        Ok(())
    }

    fn visit_bool<E>(mut self, _: bool) -> Result<(), E> {
        self.ends(PointerValue::Unclear);
        Ok(())
    }

    fn visit_str<E>(mut self, _: &str) -> Result<(), E> {
        self.ends(PointerValue::Unclear);
        Ok(())
    }

    /// `null` says nothing.
    fn visit_unit<E>(mut self) -> Result<(), E> {
        self.ends(PointerValue::Absent);
        Ok(())
    }
}

/// Reads a member's name and says which ways go through it, without keeping the name.
struct Name<'w, 'p, 'f>(&'w Walk<'p, 'f>);
struct Member<'p>(Vec<RemainingPath<'p>>);

impl<'de, 'p> DeserializeSeed<'de> for Name<'_, 'p, '_> {
    type Value = Member<'p>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'p> Visitor<'_> for Name<'_, 'p, '_> {
    type Value = Member<'p>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Member(self.0.through(name)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, pointer: &str, expected: PointerValue) {
        let pointer = Pointer::parse(pointer).unwrap();
        assert_eq!(find(text, &["result"], &[&pointer]), [expected], "{text} {pointer:?}");
    }

    #[test]
    fn a_place_holds_a_whole_number_or_nothing_that_counts() {
        let result = |result: &str| format!(r#"{{"id":1,"result":{result},"vendor":[{{}}]}}"#);
        let tokens =
            |value: &str| result(&format!(r#"{{"_meta":{{"usage":{{"tokens":{value}}}}}}}"#));
        let at = "/_meta/usage/tokens";
        check(&tokens("7"), at, PointerValue::Number(7));
        check(&tokens("0"), at, PointerValue::Number(0));
        check(&tokens("18446744073709551615"), at, PointerValue::Number(u64::MAX));
        check(&tokens("18446744073709551616"), at, PointerValue::Unclear);
        check(&tokens("-1"), at, PointerValue::Negative);
        for unclear in ["1.5", "1.0", "1e3", "\"7\"", "true", "[7]", "{}", "{\"a\":7}"] {
            check(&tokens(unclear), at, PointerValue::Unclear);
        }
        check(&tokens("null"), at, PointerValue::Absent);
        check(&result("{}"), at, PointerValue::Absent);
        check(&result("[]"), at, PointerValue::Absent);
        check("oops", at, PointerValue::Absent);
        check(&result(r#"{"_meta":{"us\u0061ge":{"tokens":3}}}"#), at, PointerValue::Number(3));
        check(&result(r#"{"a/b":{"c~d":[5,{"":6}]}}"#), "/a~1b/c~0d/0", PointerValue::Number(5));
        check(&result(r#"{"a/b":{"c~d":[5,{"":6}]}}"#), "/a~1b/c~0d/1/", PointerValue::Number(6));
        check(&result(r#"{"a":[1]}"#), "/a/1", PointerValue::Absent);
        check(&result(r#"{"a":[1]}"#), "/a/00", PointerValue::Absent);
    }

    #[test]
    fn what_stands_twice_is_unclear() {
        let twice = r#"{"result":{"a":{"n":1},"a":{"n":2}}}"#;
        check(twice, "/a/n", PointerValue::Unclear);
        check(r#"{"result":{"a":{"n":1,"n":1}}}"#, "/a/n", PointerValue::Unclear);
        check(r#"{"result":{"a":{"n":1},"a":7}}"#, "/a/n", PointerValue::Unclear);
        check(r#"{"result":{"n":1},"result":{"n":1}}"#, "/n", PointerValue::Unclear);
        check(r#"{"result":{"n":1,"other":1,"other":2}}"#, "/n", PointerValue::Number(1));
    }

    #[test]
    fn several_places_are_found_in_one_pass() {
        let text = r#"{"result":{"a":{"b":1,"c":{"d":2}},"e":3}}"#;
        let pointers = ["/a/b", "/a/c", "/a/c/d", "/e", "/f"].map(|p| Pointer::parse(p).unwrap());
        let found = find(text, &["result"], &pointers.each_ref());
        let number = PointerValue::Number;
        assert_eq!(
            found,
            [number(1), PointerValue::Unclear, number(2), number(3), PointerValue::Absent]
        );
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        for text in ["", "a", "/~2", "/~", &"/a".repeat(DEEPEST + 1)] {
            assert_eq!(Pointer::parse(text), None, "{text}");
        }
    }

    #[test]
    fn nesting_beside_the_way_costs_nothing() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        check(&format!(r#"{{"result":{{"x":{deep},"n":4}}}}"#), "/n", PointerValue::Number(4));
    }

    proptest! {
        /// What the pass finds is what a reader that builds everything finds.
        #[test]
        fn it_agrees_with_a_full_reader(
            value in any::<u64>(),
            members in proptest::collection::vec("[a-c~/\"\\\\é]{0,3}", 1..5),
            beside in "[a-d]{0,2}",
        ) {
            let mut json = serde_json::json!(value);
            for member in members.iter().rev() {
                json = serde_json::json!({ &beside: 1, member: json });
            }
            let text = serde_json::json!({ "result": json }).to_string();
            let pointer: String =
                members.iter().map(|m| format!("/{}", m.replace('~', "~0").replace('/', "~1"))).collect();
            let expected = json.pointer(&pointer).and_then(serde_json::Value::as_u64);
            let found = find(&text, &["result"], &[&Pointer::parse(&pointer).unwrap()]);
            prop_assert_eq!(found, [expected.map_or(PointerValue::Unclear, PointerValue::Number)]);
        }
    }
}
