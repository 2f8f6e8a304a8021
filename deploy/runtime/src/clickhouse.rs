//! A ClickHouse client from one URL: `http://user:password@host:port/database`.

use clickhouse::Client;
use http::Uri;

/// A URL that names no ClickHouse server.
#[derive(Debug, thiserror::Error)]
#[error("not a ClickHouse URL (http[s]://[user[:password]@]host:port/database): {0}")]
pub struct UrlError(&'static str);

/// Where a server is, and as whom to speak to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Scheme, host and port.
    pub url: String,
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: String,
}

/// Reads a URL apart. Percent-escapes are not needed in the passwords we make and are not decoded.
///
/// # Errors
/// No scheme, host or database, or more than one path segment.
pub fn address(url: &str) -> Result<Address, UrlError> {
    let uri: Uri = url.parse().map_err(|_| UrlError("it does not parse"))?;
    let scheme = uri
        .scheme_str()
        .filter(|s| matches!(*s, "http" | "https"))
        .ok_or(UrlError("no http or https"))?;
    let authority = uri.authority().ok_or(UrlError("no host"))?.as_str();
    let (who, host) =
        authority.rsplit_once('@').map_or((None, authority), |(who, host)| (Some(who), host));
    let (user, password) = who.map_or((None, None), |who| {
        let (user, password) = who.split_once(':').unwrap_or((who, ""));
        (Some(user.to_owned()), Some(password.to_owned()))
    });
    let database = uri.path().trim_matches('/');
    if database.is_empty() || !database.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(UrlError("no database, or one that is not letters, digits and _"));
    }
    Ok(Address { url: format!("{scheme}://{host}"), user, password, database: database.to_owned() })
}

/// A client of that server and database. Nothing is sent yet.
///
/// # Errors
/// As [`address`].
pub fn client(url: &str) -> Result<Client, UrlError> {
    let address = address(url)?;
    let mut client = Client::default().with_url(address.url).with_database(address.database);
    if let Some(user) = address.user {
        client = client.with_user(user);
    }
    if let Some(password) = address.password.filter(|password| !password.is_empty()) {
        client = client.with_password(password);
    }
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_all_its_parts() {
        let whole = address("http://meter:pa55@127.0.0.1:8123/meter").unwrap();
        assert_eq!(
            (whole.url.as_str(), whole.database.as_str()),
            ("http://127.0.0.1:8123", "meter")
        );
        assert_eq!(
            (whole.user.as_deref(), whole.password.as_deref()),
            (Some("meter"), Some("pa55"))
        );
        for bad in [
            "",
            "127.0.0.1:8123/x",
            "http://h:1",
            "http://h:1/",
            "http://h:1/a/b",
            "ftp://h/x",
            "http://h/a;b",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
