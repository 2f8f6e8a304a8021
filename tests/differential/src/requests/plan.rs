//! One case: whose key, to which server, and how the request is written; all of it from a seed and a number.

use super::spellings::{BODIES, ERAS, FRAMES, SECRETS};
use crate::{answers::spellings::Spelling, random::Random};

/// The servers by the path that leads to them; the last is all of them as one.
pub const SERVERS: &[&str] = &["h_old", "h_plain", "h_new", "stdio", "all"];
/// Whose key: one that may do everything, one whose quota is 0, one with other tools, one without the scope.
pub const KEYS: &[&str] = &["open", "no_quota", "other_tools", "no_scope"];
/// How the connection ends or how the bytes come.
pub const CUTS: &[&str] =
    &["none", "half_head", "half_body", "reset_behind", "fin_behind", "slow", "each_byte"];

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub server: &'static str,
    pub key: &'static str,
    pub body: Spelling,
    pub frame: Spelling,
    pub era: Spelling,
    pub secret: Spelling,
    pub cut: &'static str,
    /// Where a cut falls.
    pub position: u64,
}

impl Plan {
    /// The case of a seed and a number.
    #[must_use]
    pub fn generate(seed: u64, case: u64) -> Self {
        let mut random = Random::for_case(seed, 4, case);
        let server = *random.pick(SERVERS);
        let mut some = |of: &[Spelling], percent: u64| {
            if random.chance(percent) { *random.pick(of) } else { of[0] }
        };
        let (body, frame) = (some(BODIES, 75), some(FRAMES, 30));
        let mut era = some(ERAS, 70);
        let secret = some(SECRETS, 10);
        // At the server of the new revision most requests are of it, or few would get through.
        if server == "h_new" && random.chance(60) {
            era = ERAS[3];
        }
        let key = if random.chance(40) { KEYS[0] } else { *random.pick(KEYS) };
        let cut = if random.chance(12) { *random.pick(CUTS) } else { CUTS[0] };
        let position = random.below(1 << 40);
        Self { server, key, body, frame, era, secret, cut, position }
    }

    /// Whether this key may run nothing of what the case calls, and no other key is shown.
    #[must_use]
    pub fn may_run_nothing(&self) -> bool {
        self.key != "open" && !self.secret.0.starts_with("open")
    }

    /// Whether all that is not plain in `simpler` is so here too.
    #[must_use]
    pub fn holds(&self, simpler: &Self) -> bool {
        let pairs = [
            (simpler.body, self.body, BODIES[0]),
            (simpler.frame, self.frame, FRAMES[0]),
            (simpler.era, self.era, ERAS[0]),
            (simpler.secret, self.secret, SECRETS[0]),
        ];
        let cut = simpler.cut == CUTS[0] || simpler.cut == self.cut;
        cut && pairs.into_iter().all(|(simpler, own, plain)| simpler == plain || simpler == own)
    }

    /// The same case with one thing plain that is not, in all ways.
    #[must_use]
    pub fn simpler(&self) -> Vec<Self> {
        let all = [
            Self { body: BODIES[0], ..self.clone() },
            Self { frame: FRAMES[0], ..self.clone() },
            Self { era: ERAS[0], ..self.clone() },
            Self { secret: SECRETS[0], ..self.clone() },
            Self { cut: CUTS[0], ..self.clone() },
        ];
        all.into_iter().filter(|plan| plan != self).collect()
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { server, key, body, frame, era, secret, cut, .. } = self;
        write!(
            f,
            "key {key} at {server}, body={}, frame={}, era={}, secret={}, cut={cut}",
            body.0, frame.0, era.0, secret.0
        )
    }
}
