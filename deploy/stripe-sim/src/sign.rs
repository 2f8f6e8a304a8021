//! The `Stripe-Signature` header: HMAC-SHA256 over `t + "." + raw body` with the whole `whsec_...` text as key.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The header for one attempt, with a signature by each secret. `t` is in Unix seconds and new for each attempt.
pub fn header<S: AsRef<str>>(secrets: &[S], t: i64, body: &[u8]) -> String {
    let sign = |secret: &S| format!(",v1={}", signature(secret.as_ref(), t, body));
    format!("t={t}{}", secrets.iter().map(sign).collect::<String>())
}

fn signature(secret: &str, t: i64, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{t}.").as_bytes());
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn signatures_equal_those_of_the_official_library() {
        let file: Value =
            serde_json::from_str(include_str!("../data/webhook_vectors.json")).unwrap();
        let mut checked = 0;
        for vector in file["vectors"].as_array().unwrap() {
            let (name, expect) =
                (vector["name"].as_str().unwrap(), vector["expect"].as_str().unwrap());
            let stamp = vector["header"]
                .as_str()
                .unwrap()
                .split(',')
                .find_map(|part| part.strip_prefix("t="));
            let Some(t) = stamp.and_then(|t| t.parse().ok()) else { continue };
            let own = signature(
                vector["secret"].as_str().unwrap(),
                t,
                vector["payload"].as_str().unwrap().as_bytes(),
            );
            let carries_ours = vector["header"].as_str().unwrap().contains(&format!("v1={own}"));
            match expect {
                "ok" => assert!(carries_ours, "{name}"),
                "bad_signature" => assert!(!carries_ours, "{name}"),
                _ => continue,
            }
            checked += 1;
        }
        assert_eq!(checked, 11);
    }
}
