//! Browsers: a single-use login link becomes a cookie session. In memory: a restart logs everybody out.
//!
//! Links live ten minutes, sessions twelve hours. Both are 256 random bits, kept as digests only. The cookie is
//! `HttpOnly` and `SameSite=Strict`; over https also `Secure`, with the `__Host-` prefix.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use parking_lot::Mutex;

use super::Fingerprint;

const LINK_LIFE: Duration = Duration::from_secs(10 * 60);
const SESSION_LIFE: Duration = Duration::from_secs(12 * 3600);
/// More than this many at once are refused rather than kept: an operator needs a few.
const MAX: usize = 1_000;

/// The system gave no randomness; nothing can be handed out.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no randomness")]
pub struct NoRandomness(#[from] getrandom::Error);

/// The sessions of this process.
#[derive(Clone)]
pub struct Sessions {
    open: Arc<Mutex<Open>>,
    secure: bool,
}

#[derive(Default)]
struct Open {
    links: HashMap<Fingerprint, Instant>,
    sessions: HashMap<Fingerprint, Instant>,
}

impl Sessions {
    /// `secure`: browsers reach us over https.
    #[must_use]
    pub fn new(secure: bool) -> Self {
        Self { open: Arc::default(), secure }
    }

    /// A token that logs one browser in, once.
    ///
    /// # Errors
    /// No randomness.
    pub fn new_link(&self) -> Result<String, NoRandomness> {
        let token = random_text()?;
        keep(&mut self.open.lock().links, Fingerprint::of(&token), Instant::now(), LINK_LIFE);
        Ok(token)
    }

    /// Takes a login token and opens a session: the `Set-Cookie` value. `None` = it is not, or no longer, a token.
    ///
    /// # Errors
    /// No randomness.
    pub fn log_in(&self, token: &str) -> Result<Option<String>, NoRandomness> {
        let now = Instant::now();
        let mut open = self.open.lock();
        if open.links.remove(&Fingerprint::of(token)).is_none_or(|end| end <= now) {
            return Ok(None);
        }
        let session = random_text()?;
        keep(&mut open.sessions, Fingerprint::of(&session), now, SESSION_LIFE);
        Ok(Some(self.cookie(&session, SESSION_LIFE)))
    }

    /// Whether a request comes from a browser that is logged in.
    #[must_use]
    pub fn is_open(&self, headers: &HeaderMap) -> bool {
        let Some(session) = self.session(headers) else { return false };
        self.open
            .lock()
            .sessions
            .get(&Fingerprint::of(session))
            .is_some_and(|end| Instant::now() < *end)
    }

    /// Ends the session of a request; the `Set-Cookie` value that makes the browser forget it.
    pub fn log_out(&self, headers: &HeaderMap) -> String {
        if let Some(session) = self.session(headers) {
            self.open.lock().sessions.remove(&Fingerprint::of(session));
        }
        self.cookie("", Duration::ZERO)
    }

    fn name(&self) -> &'static str {
        if self.secure { "__Host-tollbook" } else { "tollbook" }
    }

    fn cookie(&self, value: &str, life: Duration) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        let (name, life) = (self.name(), life.as_secs());
        format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={life}{secure}")
    }

    fn session<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let cookies =
            headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        cookies.flat_map(|line| line.split(';')).find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == self.name() && !value.is_empty()).then_some(value)
        })
    }
}

/// Keeps one more, after forgetting what has ended and, if there are too many, what ends first.
fn keep(kept: &mut HashMap<Fingerprint, Instant>, new: Fingerprint, now: Instant, life: Duration) {
    kept.retain(|_, end| now < *end);
    if kept.len() >= MAX
        && let Some(first) =
            kept.iter().min_by_key(|(_, end)| **end).map(|(fingerprint, _)| *fingerprint)
    {
        kept.remove(&first);
    }
    kept.insert(new, now + life);
}

fn random_text() -> Result<String, NoRandomness> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_cookie(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, cookie.parse().unwrap())])
    }

    fn pair(set_cookie: &str) -> &str {
        set_cookie.split(';').next().unwrap()
    }

    #[test]
    fn a_link_logs_in_once_and_a_session_ends_when_told() {
        let sessions = Sessions::new(false);
        let link = sessions.new_link().unwrap();
        assert!(sessions.log_in("0").unwrap().is_none());
        let cookie = sessions.log_in(&link).unwrap().unwrap();
        assert!(sessions.log_in(&link).unwrap().is_none(), "a link worked twice");
        for wanted in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
            assert!(cookie.contains(wanted), "{cookie}");
        }
        let headers = with_cookie(&format!("other=1; {}", pair(&cookie)));
        assert!(sessions.is_open(&headers));
        assert!(
            !sessions.is_open(&HeaderMap::new()) && !sessions.is_open(&with_cookie("tollbook="))
        );
        assert!(
            !sessions.is_open(&with_cookie(&format!("tollbook={link}"))),
            "a link is no session"
        );
        assert!(sessions.log_out(&headers).contains("Max-Age=0"));
        assert!(!sessions.is_open(&headers));
    }

    #[test]
    fn over_https_the_cookie_stays_there() {
        let sessions = Sessions::new(true);
        let link = sessions.new_link().unwrap();
        let cookie = sessions.log_in(&link).unwrap().unwrap();
        assert!(cookie.starts_with("__Host-tollbook=") && cookie.ends_with("; Secure"), "{cookie}");
        assert!(sessions.is_open(&with_cookie(pair(&cookie))));
    }

    #[test]
    fn what_has_ended_or_is_too_much_is_forgotten() {
        let (mut kept, now) = (HashMap::new(), Instant::now());
        for n in 0..=MAX {
            let later = now + Duration::from_secs(n as u64);
            keep(&mut kept, Fingerprint::of(&n.to_string()), later, Duration::from_secs(5_000));
        }
        assert_eq!(kept.len(), MAX);
        assert!(!kept.contains_key(&Fingerprint::of("0")), "the one that ends first had to go");
        keep(
            &mut kept,
            Fingerprint::of("x"),
            now + Duration::from_secs(90_000),
            Duration::from_secs(1),
        );
        assert_eq!(kept.len(), 1);
    }
}
