//! What tokens must say, row by row, and that none of them makes a node stumble.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const KEY: &str = "key_00000000000000000000000000000007";

fn expected() -> Expected {
    let (issuer, audience) = ("https://issuer".to_owned(), "https://node/mcp".to_owned());
    Expected { issuer, audience, key_claim: "tollbook_key".into() }
}

fn written(header: &str, claims: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(header), part(claims), part("signature"))
}

fn claims() -> Value {
    json!({ "iss": "https://issuer", "aud": "https://node/mcp", "exp": 1_000, "tollbook_key": KEY, "scope": "a:b c:*" })
}

#[track_caller]
fn check(change: impl FnOnce(&mut Value), now_s: i64, then: Result<&[&str], Why>) {
    let mut claims = claims();
    change(&mut claims);
    let token = written(r#"{"alg":"EdDSA"}"#, &claims.to_string());
    let said = read(&token).and_then(|parts| parts.said(&expected(), Timestamp(now_s * 1_000)));
    let scopes = said.map(|said| said.scopes);
    let then = then.map(|scopes| scopes.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(scopes, then, "{claims}");
}

#[test]
fn what_a_token_says() {
    let all: Result<&[&str], Why> = Ok(&["a:b", "c:*"]);
    check(|_| (), 0, all);
    check(|_| (), 1_059, all);
    check(|_| (), 1_060, Err(Why::Expired));
    check(|claims| claims["exp"] = json!(i64::MAX), 5_000, all);
    check(|claims| claims["exp"] = json!(1_000.9), 1_059, all);
    check(|claims| claims["exp"] = json!("1000"), 0, Err(Why::Malformed));
    check(|claims| claims["exp"] = Value::Null, 0, Err(Why::Malformed));
    check(|claims| claims["exp"] = json!(-1), 0, all);
    check(|claims| claims["exp"] = json!(-60), 0, Err(Why::Expired));
    check(|claims| drop(claims.as_object_mut().unwrap().remove("exp")), 0, Err(Why::Malformed));
    check(|claims| claims["nbf"] = json!(160), 100, all);
    check(|claims| claims["nbf"] = json!(161), 100, Err(Why::TooEarly));
    check(|claims| claims["nbf"] = json!(i64::MIN), 100, all);
    check(|claims| claims["iss"] = json!("https://issuer/"), 0, Err(Why::Issuer));
    check(|claims| claims["iss"] = json!(["https://issuer"]), 0, Err(Why::Issuer));
    check(|claims| claims["aud"] = json!(["x", "https://node/mcp"]), 0, all);
    check(|claims| claims["aud"] = json!(["x"]), 0, Err(Why::Audience));
    check(|claims| claims["aud"] = json!("https://node/mcp2"), 0, Err(Why::Audience));
    check(|claims| drop(claims.as_object_mut().unwrap().remove("aud")), 0, Err(Why::Audience));
    check(|claims| claims["scope"] = json!(["x y", "z"]), 0, Ok(&["x", "y", "z"]));
    check(|claims| claims["scope"] = json!(""), 0, Ok(&[]));
    check(|claims| claims["scope"] = json!(7), 0, Err(Why::Malformed));
    check(|claims| drop(claims.as_object_mut().unwrap().remove("scope")), 0, Ok(&[]));
}

#[test]
fn which_key_a_token_is_for() {
    #[track_caller]
    fn check(named: &Value, then: Result<&str, Why>) {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove("tollbook_key");
        for (name, value) in named.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let token = written(r#"{"alg":"ES256"}"#, &claims.to_string());
        let said = read(&token).unwrap().said(&expected(), Timestamp(0));
        assert_eq!(said.map(|said| said.key.to_string()).as_deref(), then.as_deref(), "{named}");
    }
    let other = "key_00000000000000000000000000000008";
    check(&json!({ "tollbook_key": KEY }), Ok(KEY));
    check(&json!({ "client_id": KEY }), Ok(KEY));
    check(&json!({ "client_id": "app", "azp": KEY }), Ok(KEY));
    check(&json!({ "client_id": other, "tollbook_key": KEY }), Ok(KEY));
    check(&json!({ "client_id": KEY, "tollbook_key": "x" }), Err(Why::NamesNoKey));
    check(&json!({ "client_id": KEY, "tollbook_key": null }), Err(Why::NamesNoKey));
    check(&json!({ "sub": KEY }), Err(Why::NamesNoKey));
    check(&json!({ "client_id": format!("{KEY}0") }), Err(Why::NamesNoKey));
}

#[test]
fn only_three_algorithms_and_the_compact_form_are_taken() {
    let claims = claims().to_string();
    for alg in ["none", "None", "", "HS256", "HS512", "RS512", "PS256", "ES384", "rs256", "eddsa"] {
        let token = written(&json!({ "alg": alg }).to_string(), &claims);
        assert_eq!(read(&token), Err(Why::Algorithm), "{alg}");
    }
    let kid =
        read(&written(r#"{"alg":"RS256","kid":"k\u0031","typ":"at+jwt"}"#, &claims)).unwrap().kid;
    assert_eq!(kid.as_deref(), Some("k1"));
    let good = written(r#"{"alg":"RS256"}"#, &claims);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    assert_eq!(read(&good).unwrap().signed, signed);
    for bad in [
        String::new(),
        "..".into(),
        "a.b".into(),
        signed.to_owned(),
        format!("{good}."),
        format!("{good}="),
        format!(" {good}"),
        format!("{signed}.{signature}+/"),
        written(r#"{"alg":"RS256","crit":["b64"],"b64":false}"#, &claims),
        written(r#"{"alg":"none","alg":"RS256"}"#, &claims),
        written(r#"["RS256",null,null]"#, &claims),
        written("nonsense", &claims),
        written(&json!({ "alg": "RS256", "kid": "x".repeat(513) }).to_string(), &claims),
        written(r#"{"alg":"RS256"}"#, &"x".repeat(LONGEST)),
    ] {
        assert_eq!(read(&bad), Err(Why::Malformed), "{bad:.80}");
    }
    let odd = written(r#"{"alg":"RS256"}"#, "[]");
    let odd = read(&odd).unwrap();
    assert_eq!(odd.said(&expected(), Timestamp(0)), Err(Why::Malformed));
}

proptest! {
    /// Whatever comes, it is read or refused.
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}", parts in proptest::collection::vec("[ -~]{0,40}", 3)) {
        let _ = read(&text);
        let token = written(&parts[0], &parts[1]);
        let _ = read(&token);
        let token = written(r#"{"alg":"EdDSA"}"#, &parts[2]);
        let _ = read(&token).map(|parts| parts.said(&expected(), Timestamp(0)));
        let token = written(r#"{"alg":"EdDSA"}"#, &format!(r#"{{"iss":"https://issuer","aud":{},"exp":{}}}"#, parts[0], parts[1]));
        let _ = read(&token).map(|parts| parts.said(&expected(), Timestamp(0)));
    }

    /// A token of which one character is another is not the same token, or not the same text was signed.
    #[test]
    fn a_changed_character_shows(at in 0usize..1_000, with in "[A-Za-z0-9_-]") {
        let token = written(r#"{"alg":"EdDSA","kid":"a"}"#, &claims().to_string());
        let at = at % token.len();
        let mut other = token.clone();
        other.replace_range(at..=at, &with);
        let (one, two) = (read(&token).unwrap(), read(&other));
        prop_assert!(other == token || two.as_ref() != Ok(&one));
    }
}
