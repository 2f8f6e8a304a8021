use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ONE: &str = r#"{"vendor":1.00,"id":1,"result":{ "tools":[ {"x":1.00, "n\u0061me" : "\u0061" }, {"name":"b","y":[ ]} ],"ttlMs":9,"cacheScope":"public","extra":[1.0],"_meta":{"v":1}}}"#;
const TWO: &str = r#"{"id":1,"result":{"tools":[{"name":"a"}],"nextCursor":"n","ttlMs":5,"cacheScope":"private","extra":2,"_meta":{"v":2,"w":3}}}"#;

fn part<'a>(server: &'a str, prefix: &'a str, pages: &[&'a str], list: &List) -> Part<'a> {
    let pages = pages.iter().map(|text| page(text.as_bytes(), list).unwrap().unwrap());
    Part { server, prefix, pages: pages.collect() }
}

#[test]
fn entries_keep_every_byte_but_for_their_prefix() {
    let parts = [part("one", "1_", &[ONE], &TOOLS), part("two", "2_", &[TWO], &TOOLS)];
    let found = merged(&TOOLS, &parts, &[]);
    let cursor = cursor::written(&Places::from([("two".into(), "n".into())])).unwrap();
    let rest = format!(
        r#""nextCursor":"{cursor}","ttlMs":5,"cacheScope":"private","_meta":{{"v":1,"w":3}},"extra":[1.0]}}"#
    );
    let tools = r#"{"tools":[{"x":1.00, "n\u0061me" : "1_\u0061" },{"name":"1_b","y":[ ]},{"name":"2_a"}],"#;
    assert_eq!(found.result, format!("{tools}{rest}"));
    assert_eq!(found.offers, [("1_a".into(), 0), ("1_b".into(), 0), ("2_a".into(), 1)]);
    assert!(found.clashes.is_empty());
}

#[test]
fn of_two_with_one_name_the_first_stays() {
    let parts = [part("one", "", &[ONE], &TOOLS), part("two", "", &[TWO], &TOOLS)];
    let found = merged(&TOOLS, &parts, &[]);
    assert_eq!(found.offers, [("a".into(), 0), ("b".into(), 0)]);
    assert_eq!(found.clashes, [("a".into(), 1)]);
    assert_eq!(
        serde_json::from_str::<Value>(&found.result).unwrap()["tools"].as_array().unwrap().len(),
        2
    );
}

#[test]
fn who_is_missing_is_named_and_nothing_is_kept_for_long() {
    let parts = [part("one", "1_", &[ONE], &TOOLS)];
    let found: Value = serde_json::from_str(&merged(&TOOLS, &parts, &["two"]).result).unwrap();
    assert_eq!(found["_meta"], json!({ "v": 1, MISSING: ["two"] }));
    assert_eq!((&found["ttlMs"], &found["cacheScope"]), (&json!(0), &json!("public")));
    let found = merged(&TOOLS, &[], &["one"]).result;
    assert_eq!(found, r#"{"tools":[],"_meta":{"dev.tollbook/missing":["one"]}}"#);
}

#[test]
fn addresses_have_no_prefix() {
    let resources = List::of("resources/list").unwrap();
    let text =
        r#"{"id":1,"result":{"resources":[{"uri":"x://1","name":"a"},{"name":"no address"}]}}"#;
    let found = merged(resources, &[part("one", "1_", &[text], resources)], &[]);
    assert_eq!(found.result, r#"{"resources":[{"uri":"x://1","name":"a"}]}"#);
    assert_eq!(found.offers, [("x://1".into(), 0)]);
}

#[test]
fn pages_one_after_the_other_are_one_part() {
    let first = r#"{"result":{"tools":[{"name":"a"}],"nextCursor":"2"}}"#;
    let last = r#"{"result":{"tools":[{"name":"b"}]}}"#;
    let found = merged(&TOOLS, &[part("one", "1_", &[first, last], &TOOLS)], &[]);
    assert_eq!(found.result, r#"{"tools":[{"name":"1_a"},{"name":"1_b"}]}"#);
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_or_does_not_stay() {
    for entry in ["1", "{}", r#"{"name":1}"#, r#"{"name":"m","name":"x"}"#, r#"["m"]"#, "null"] {
        let message = format!(r#"{{"result":{{"tools":[{entry},{{"name":"m"}}]}}}}"#);
        let found = merged(&TOOLS, &[part("one", "", &[&message], &TOOLS)], &[]);
        assert_eq!(found.result, r#"{"tools":[{"name":"m"}]}"#, "{entry}");
    }
    for message in [
        r#"{"result":{"tools":[],"tools":[]}}"#,
        r#"{"result":{"tools":[]},"result":{}}"#,
        r#"{"result":{"tools":{}}}"#,
        r#"{"result":{"nextCursor":"a","nextCursor":"b"}}"#,
        r#"{"result":[]}"#,
        "",
    ] {
        assert_eq!(page(message.as_bytes(), &TOOLS).err(), Some(Unreadable), "{message}");
    }
    assert!(page(br#"{"error":{"code":1}}"#, &TOOLS).unwrap().is_none());
}

proptest! {
    /// The list is the servers' lists one after the other, each name once, with the server's prefix.
    #[test]
    fn one_list_is_all_lists(
        names in proptest::collection::vec(proptest::collection::vec("[ab\"\\\\é]{0,2}", 0..5), 0..4),
        prefixes in proptest::collection::vec("[ab_]{0,2}", 4),
    ) {
        let answer = |names: &Vec<String>| {
            let tools: Vec<Value> = names.iter().map(|name| json!({ "d": [1], "name": name })).collect();
            json!({ "id": 1, "result": { "tools": tools } }).to_string()
        };
        let answers: Vec<String> = names.iter().map(answer).collect();
        let parts: Vec<Part<'_>> = answers
            .iter()
            .zip(&prefixes)
            .map(|(text, prefix)| part("s", prefix, &[text.as_str()], &TOOLS))
            .collect();
        let found = merged(&TOOLS, &parts, &[]);
        let all: Vec<String> = names
            .iter()
            .zip(&prefixes)
            .flat_map(|(names, prefix)| names.iter().map(move |name| format!("{prefix}{name}")))
            .collect();
        let mut expected = vec![];
        for name in &all {
            if !expected.contains(name) {
                expected.push(name.clone());
            }
        }
        let shown: Value = serde_json::from_str(&found.result).unwrap();
        let shown = shown["tools"].as_array().unwrap();
        let names: Vec<&str> = shown.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
        prop_assert_eq!(&names, &expected);
        prop_assert!(shown.iter().all(|tool| tool["d"] == json!([1])));
        prop_assert_eq!(found.offers.len() + found.clashes.len(), all.len());
    }

    /// Whatever a server says, it is read or refused, and what is made of it is JSON.
    #[test]
    fn nothing_makes_it_panic(text in "[{}\\[\\]\",:a-z0-9 ]{0,60}") {
        for text in [text.clone(), format!(r#"{{"result":{text}}}"#), format!(r#"{{"result":{{"tools":{text}}}}}"#)] {
            if let Ok(Some(page)) = page(text.as_bytes(), &TOOLS) {
                let parts = [Part { server: "s", prefix: "p_", pages: vec![page] }];
                let found = merged(&TOOLS, &parts, &["x"]).result;
                prop_assert!(serde_json::from_str::<Value>(&found).is_ok(), "{}", found);
            }
        }
    }
}
