//! The signing secrets of one receiver. While a secret is rolled, the old one stays valid for a time and messages carry two signatures.

/// The current secret, and the one before it with the Unix second at which it ends.
#[derive(Clone, Debug)]
pub struct Secrets {
    current: String,
    old: Option<(String, i64)>,
}

impl Secrets {
    pub fn new(secret: String) -> Self {
        Self { current: secret, old: None }
    }

    /// Puts a new secret in the place of the current one, which stays valid until a Unix second.
    pub fn roll(&mut self, secret: String, until: i64) {
        self.old = Some((std::mem::replace(&mut self.current, secret), until));
    }

    /// The secrets that sign at a Unix second, the newest first.
    pub fn valid_at(&self, now: i64) -> Vec<String> {
        let old = self.old.iter().filter(|(_, until)| now < *until).map(|(secret, _)| secret);
        [&self.current].into_iter().chain(old).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rolled_secret_signs_until_its_end() {
        let mut secrets = Secrets::new("a".to_owned());
        secrets.roll("b".to_owned(), 10);
        assert_eq!(secrets.valid_at(9), ["b", "a"]);
        assert_eq!(secrets.valid_at(10), ["b"]);
        secrets.roll("c".to_owned(), 20);
        assert_eq!(secrets.valid_at(11), ["c", "b"]);
    }
}
