//! What the head of a request must say of where it goes and where its body ends, beyond what hyper holds it to.
//!
//! hyper takes any list of transfer codings that ends in `chunked`, and undoes that one alone: a reader that undoes the
//! others, or `chunked` twice, would see another body. So `chunked` may stand there once and nothing else may. hyper
//! itself refuses lengths that differ or are no number, and closes behind a request with a length and chunks.

use axum::http::{
    HeaderMap, HeaderValue, Request, Version,
    header::{HOST, TRANSFER_ENCODING},
    uri::Authority,
};
use mcp_node_core::Refusal;

/// Checks the framing of a request and the name that it was sent to, which stands in `Host` afterwards.
///
/// # Errors
/// `InvalidRequest`: nobody can be sure where the body ends, or to whom the request goes.
pub fn check<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    is_chunked_once(request.headers())?;
    let (target, version) = (request.uri().authority().cloned(), request.version());
    take_target(target.as_ref(), request.headers_mut())?;
    let hosts = request.headers().get_all(HOST).iter().count();
    match hosts {
        1 => Ok(()),
        0 if version < Version::HTTP_11 => Ok(()),
        0 => Err(Refusal::InvalidRequest("The header Host is missing.")),
        _ => Err(Refusal::InvalidRequest("The header Host stands twice.")),
    }
}

/// Puts the host of a target in absolute form, if it is in that form, in the place of `Host` (RFC 9112, 3.2.2).
///
/// # Errors
/// `InvalidRequest`: the target names a user, which no http URI may.
pub fn take_target(target: Option<&Authority>, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let Some(target) = target else { return Ok(()) };
    let host = HeaderValue::from_str(target.as_str()).ok();
    let host = host.filter(|host| !host.as_bytes().contains(&b'@'));
    let host = host.ok_or(Refusal::InvalidRequest("The target names no host."))?;
    headers.insert(HOST, host);
    Ok(())
}

fn is_chunked_once(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(first) = codings.next() else { return Ok(()) };
    let chunked = first.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if chunked && codings.next().is_none() {
        return Ok(());
    }
    Err(Refusal::InvalidRequest("Transfer-Encoding may be `chunked`, once, and nothing else."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn checked(target: &str, headers: &[(&'static str, &'static str)]) -> Result<String, Refusal> {
        let mut request = Request::new(());
        *request.uri_mut() = target.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        check(&mut request)?;
        Ok(request.headers()[HOST].to_str().unwrap().to_owned())
    }

    #[test]
    fn chunked_stands_once_and_alone() {
        let host = ("host", "a");
        let coded = |codings: &[&'static str]| {
            let codings = codings.iter().map(|coding| ("transfer-encoding", *coding));
            checked("/mcp", &[host].into_iter().chain(codings).collect::<Vec<_>>()).is_ok()
        };
        for fine in [&[][..], &["chunked"], &["Chunked"], &["\tchunked "]] {
            assert!(coded(fine), "{fine:?}");
        }
        for not in [
            &["chunked, chunked"][..],
            &["identity, chunked"],
            &["gzip, chunked"],
            &["identity"],
            &["gzip"],
            &[", chunked"],
            &["chunked,"],
            &["chunked;a=b"],
            &["chunked", "chunked"],
            &["gzip", "chunked"],
            &["chunked", ""],
        ] {
            assert!(!coded(not), "{not:?}");
        }
    }

    #[test]
    fn the_target_decides_instead_of_host() {
        let host = ("host", "evil.example");
        assert_eq!(checked("/mcp", &[host]).unwrap(), "evil.example");
        assert_eq!(checked("http://b.example:8/mcp", &[host]).unwrap(), "b.example:8");
        assert_eq!(checked("http://b.example/mcp", &[]).unwrap(), "b.example");
        assert_eq!(checked("http://b.example/mcp", &[host, host]).unwrap(), "b.example");
        assert!(checked("http://u:p@b.example/mcp", &[host]).is_err());
        assert!(checked("/mcp", &[]).is_err());
        assert!(checked("/mcp", &[host, host]).is_err());
    }
}
