//! Tokens of an issuer (JWT, RFC 7519, signed by RFC 7515): their form, and whether what they say is meant for here.
//!
//! Of three algorithms only, each bound to one kind of key, so nobody can pass a public key off as a secret. The
//! signature must be checked before what is said here is believed. Absent on purpose: keys and cryptography, the clock,
//! encrypted tokens, and whether the key that a token names exists.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use schemas::{KeyId, Timestamp};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

/// No token is longer. Unit: bytes.
pub const LONGEST: usize = 16 * 1024;
/// How far the issuer's clock and ours may be apart. Unit: milliseconds.
pub const LEEWAY_MS: i64 = 60_000;
/// No name of a key in a header is longer. Unit: bytes.
const LONGEST_KID: usize = 512;
/// Where else a key's id may stand, if it has the form of one.
const OTHER_CLAIMS: [&str; 2] = ["client_id", "azp"];

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA with PKCS #1 v1.5 and SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// By its name in RFC 7518 and RFC 8037; anything else is not taken, `none` and `HS256` least of all.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// Why a token is not taken. For the operator: callers are told nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Malformed,
    Algorithm,
    UnknownKey,
    Signature,
    Issuer,
    Audience,
    Expired,
    TooEarly,
    NamesNoKey,
}

impl Why {
    /// A stable word for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::TooEarly => "too_early",
            Self::NamesNoKey => "names_no_key",
        }
    }
}

/// A token in its parts; nothing in it is believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    pub algorithm: Algorithm,
    /// Which of the issuer's keys signed it.
    pub kid: Option<String>,
    /// What was signed.
    pub signed: &'a str,
    pub signature: Vec<u8>,
    claims: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// What a reader must understand, and we do not.
    crit: Option<IgnoredAny>,
}

/// Whether a text has a token's three parts; API keys have no dot.
#[must_use]
pub fn is_token(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// Takes a token apart.
///
/// # Errors
/// It is too long, not in the compact form, or of an algorithm that is not taken.
pub fn read(token: &str) -> Result<Parts<'_>, Why> {
    if token.len() > LONGEST || !is_token(token) {
        return Err(Why::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Why::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(Why::Malformed)?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Why::Malformed);
    let header: Header = object(&text(decoded(header)?)?)?;
    let long = header.kid.as_ref().is_some_and(|kid| kid.len() > LONGEST_KID);
    if header.crit.is_some() || long {
        return Err(Why::Malformed);
    }
    let algorithm = Algorithm::named(&header.alg).ok_or(Why::Algorithm)?;
    let (claims, signature) = (text(decoded(claims)?)?, decoded(signature)?);
    Ok(Parts { algorithm, kid: header.kid, signed, signature, claims })
}

fn text(bytes: Vec<u8>) -> Result<String, Why> {
    String::from_utf8(bytes).map_err(|_| Why::Malformed)
}

/// An object; arrays, which the parser would take for one too, are none.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Why> {
    let is_object = text.trim_start().starts_with('{');
    is_object.then(|| serde_json::from_str(text).ok()).flatten().ok_or(Why::Malformed)
}

/// What a token must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub issuer: String,
    pub audience: String,
    /// The claim that names the API key.
    pub key_claim: String,
}

/// What a token says that is meant for here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenClaims {
    /// The API key whose state, quotas and leases apply.
    pub key: KeyId,
    /// What the token leaves of the key's rights; one that names no scopes leaves none.
    pub scopes: Vec<String>,
    /// From here on it is refused; the leeway is in it.
    pub until: Timestamp,
}

type Claims<'a> = BTreeMap<String, &'a RawValue>;

impl Parts<'_> {
    /// Who the token says that it is from, to tell a foreign one before its key is looked for.
    ///
    /// # Errors
    /// `Malformed`, or `Issuer` where it is another's.
    pub fn check_issuer(&self, expected: &Expected) -> Result<(), Why> {
        let claims: Claims<'_> = object(&self.claims)?;
        let issuer = string(&claims, "iss").ok_or(Why::Issuer)?;
        if issuer == expected.issuer { Ok(()) } else { Err(Why::Issuer) }
    }

    /// What the token says. Its signature has been checked.
    ///
    /// # Errors
    /// It is another issuer's, for another audience, without an end or over, not yet valid, or names no API key.
    pub fn said(&self, expected: &Expected, now: Timestamp) -> Result<TokenClaims, Why> {
        self.check_issuer(expected)?;
        let claims: Claims<'_> = object(&self.claims)?;
        if !strings(&claims, "aud").ok_or(Why::Audience)?.contains(&expected.audience) {
            return Err(Why::Audience);
        }
        let until = moment(&claims, "exp")?.ok_or(Why::Malformed)?.saturating_add(LEEWAY_MS);
        if now.0 >= until {
            return Err(Why::Expired);
        }
        if moment(&claims, "nbf")?.is_some_and(|from| now.0 < from.saturating_sub(LEEWAY_MS)) {
            return Err(Why::TooEarly);
        }
        let scopes = match claims.contains_key("scope") {
            true => strings(&claims, "scope").ok_or(Why::Malformed)?,
            false => vec![],
        };
        let words = |scope: &String| scope.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let scopes = scopes.iter().flat_map(words).filter(|scope| !scope.is_empty()).collect();
        Ok(TokenClaims { key: key(&claims, &expected.key_claim)?, scopes, until: Timestamp(until) })
    }
}

/// The API key that a token is for: what the claim says; only where it is missing, what others say.
fn key(claims: &Claims<'_>, named: &str) -> Result<KeyId, Why> {
    let id = |claim: &str| string(claims, claim)?.parse().ok();
    if claims.contains_key(named) {
        return id(named).ok_or(Why::NamesNoKey);
    }
    OTHER_CLAIMS.into_iter().find_map(id).ok_or(Why::NamesNoKey)
}

fn string(claims: &Claims<'_>, name: &str) -> Option<String> {
    serde_json::from_str(claims.get(name)?.get()).ok()
}

/// A claim that is one text or several.
fn strings(claims: &Claims<'_>, name: &str) -> Option<Vec<String>> {
    let raw = claims.get(name)?.get();
    let one = serde_json::from_str::<String>(raw).map(|one| vec![one]);
    one.or_else(|_| serde_json::from_str(raw)).ok()
}

/// A moment, which tokens give in seconds, in milliseconds; fractions of a second are left out.
fn moment(claims: &Claims<'_>, name: &str) -> Result<Option<i64>, Why> {
    let Some(raw) = claims.get(name) else { return Ok(None) };
    let whole = raw.get().split('.').next().unwrap_or_default();
    let seconds: i64 = whole.parse().map_err(|_| Why::Malformed)?;
    Ok(Some(seconds.saturating_mul(1_000)))
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
