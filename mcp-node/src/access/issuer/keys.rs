//! The public keys of an issuer (JWK Set, RFC 7517), and the check of a signature by one of them.
//!
//! A key is usable by the one algorithm of its kind: RSA of 2,048 bits or more, P-256, Ed25519. What else stands in a
//! set (secrets, other curves, keys for encryption) is left out, as RFC 7517 asks of readers.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mcp_node_core::token::Algorithm;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;

/// No set is believed to have more keys.
const MAX: usize = 100;

/// The text is no set of keys, or holds none that is usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("it is no JWK Set")]
    Unreadable,
    #[error("no key in it is usable: RSA from 2,048 bits, P-256 or Ed25519, for signatures")]
    None,
    #[error("it has more than {MAX} keys")]
    TooMany,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PublicKey {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// The keys of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<(Option<String>, PublicKey)>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn read(text: &[u8]) -> Result<Self, KeysError> {
        let document: Document = serde_json::from_slice(text).map_err(|_| KeysError::Unreadable)?;
        if document.keys.len() > MAX {
            return Err(KeysError::TooMany);
        }
        let readable = document.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<_> =
            readable.filter_map(|jwk: Jwk| Some((jwk.kid.clone(), jwk.key()?))).collect();
        if keys.is_empty() { Err(KeysError::None) } else { Ok(Self { keys }) }
    }

    /// The key that a token names; one that names none may mean the only key of its kind.
    fn find(&self, algorithm: Algorithm, kid: Option<&str>) -> Option<&PublicKey> {
        let fits = |key: &PublicKey| key.algorithm() == algorithm;
        let named = |found: &Option<String>| kid.is_none() || found.as_deref() == kid;
        let mut found = self.keys.iter().filter(|(kid, key)| fits(key) && named(kid));
        let (_, key) = found.next()?;
        (kid.is_some() || found.next().is_none()).then_some(key)
    }

    /// Whether `signature` is that of `signed`; `None` = the key that is named is not here.
    #[must_use]
    pub fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        signed: &[u8],
        signature: &[u8],
    ) -> Option<bool> {
        let good = match self.find(algorithm, kid)? {
            PublicKey::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                signed,
                signature,
            ),
            PublicKey::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature)
            }
            PublicKey::Ed25519(point) => {
                UnparsedPublicKey::new(&ED25519, point).verify(signed, signature)
            }
        };
        Some(good.is_ok())
    }
}

impl PublicKey {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }
}

impl Jwk {
    fn key(&self) -> Option<PublicKey> {
        let signs = self.r#use.as_deref().is_none_or(|said| said == "sig");
        let verifies = self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let n = number(self.n.as_deref()?)?;
                (n.len() >= 256).then_some(PublicKey::Rsa { n, e: number(self.e.as_deref()?)? })?
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (fixed(self.x.as_deref()?)?, fixed(self.y.as_deref()?)?);
                PublicKey::P256([&[4], &x[..], &y[..]].concat())
            }
            ("OKP", Some("Ed25519")) => PublicKey::Ed25519(fixed(self.x.as_deref()?)?),
            _ => return None,
        };
        let said =
            self.alg.as_deref().is_none_or(|said| Algorithm::named(said) == Some(key.algorithm()));
        (signs && verifies && said).then_some(key)
    }
}

/// A number in base64url, without leading zeros.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Some(bytes[zeros..].to_vec())
}

/// 32 bytes in base64url.
fn fixed(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == 32)
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
    };
    use serde_json::json;

    use super::*;

    fn url(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn read(keys: &Value) -> Result<KeySet, KeysError> {
        KeySet::read(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn ed25519() -> (Ed25519KeyPair, Value) {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let x = url(pair.public_key().as_ref());
        (pair, json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": x }))
    }

    fn p256() -> (EcdsaKeyPair, Value) {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (url(&point[1..33]), url(&point[33..]));
        (pair, json!({ "kty": "EC", "crv": "P-256", "kid": "ec", "x": x, "y": y, "use": "sig" }))
    }

    /// RFC 7515, appendix A.2: a signature by RSA, and its key.
    const RSA_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    const RSA_SIGNED: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    const RSA_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

    #[test]
    fn each_kind_of_key_checks_what_it_signed_and_nothing_else() {
        let (ed, ed_jwk) = ed25519();
        let (ec, ec_jwk) = p256();
        let rsa_jwk =
            json!({ "kty": "RSA", "kid": "rsa", "n": RSA_N, "e": "AQAB", "alg": "RS256" });
        let keys = read(&json!([ed_jwk, ec_jwk, rsa_jwk])).unwrap();
        let signed = RSA_SIGNED.as_bytes();
        let signatures = [
            (Algorithm::EdDsa, "ed", ed.sign(signed).as_ref().to_vec()),
            (
                Algorithm::Es256,
                "ec",
                ec.sign(&SystemRandom::new(), signed).unwrap().as_ref().to_vec(),
            ),
            (Algorithm::Rs256, "rsa", URL_SAFE_NO_PAD.decode(RSA_SIGNATURE).unwrap()),
        ];
        for (algorithm, kid, signature) in &signatures {
            assert_eq!(keys.verify(*algorithm, Some(kid), signed, signature), Some(true), "{kid}");
            assert_eq!(
                keys.verify(*algorithm, None, signed, signature),
                Some(true),
                "the only one"
            );
            assert_eq!(keys.verify(*algorithm, Some(kid), &signed[1..], signature), Some(false));
            assert_eq!(keys.verify(*algorithm, Some(kid), signed, &signature[1..]), Some(false));
            assert_eq!(keys.verify(*algorithm, Some(kid), signed, &[]), Some(false));
            assert_eq!(keys.verify(*algorithm, Some("other"), signed, signature), None);
            for (other, ..) in signatures.iter().filter(|(other, ..)| other != algorithm) {
                assert_eq!(keys.verify(*other, Some(kid), signed, signature), None, "another kind");
            }
        }
        let two = read(&json!([ed25519().1, ed25519().1])).unwrap();
        assert_eq!(two.verify(Algorithm::EdDsa, None, signed, &[]), None, "which one?");
    }

    #[test]
    fn what_is_not_for_signatures_of_ours_is_left_out() {
        let good = ed25519().1;
        let with = |name: &str, value: Value| {
            let mut key = good.clone();
            key[name] = value;
            key
        };
        for bad in [
            json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "ed", "alg": "HS256" }),
            json!({ "kty": "RSA", "n": url(&[0xff; 128]), "e": "AQAB" }),
            json!({ "kty": "RSA", "n": RSA_N }),
            json!({ "kty": "EC", "crv": "P-384", "x": "", "y": "" }),
            with("use", json!("enc")),
            with("key_ops", json!(["sign"])),
            with("alg", json!("RS256")),
            with("alg", json!("none")),
            with("x", json!("AAAA")),
            with("x", json!(7)),
            with("kty", json!(null)),
            json!("key"),
        ] {
            assert_eq!(read(&json!([bad])), Err(KeysError::None), "{bad}");
            assert!(read(&json!([bad, good])).is_ok(), "the others serve");
        }
        assert_eq!(KeySet::read(b"[]"), Err(KeysError::Unreadable));
        assert_eq!(KeySet::read(b"\xff"), Err(KeysError::Unreadable));
        assert_eq!(read(&json!(vec![good; MAX + 1])), Err(KeysError::TooMany));
    }
}
