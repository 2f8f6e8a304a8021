//! The address of a client behind proxies: what those that are trusted say of whom they had a request from.
//!
//! Each proxy appends whom it heard. So the list is read from its end, for as long as whoever appended is trusted: what
//! stands further left may be anybody's invention. One header is read, which the operator names: a proxy that writes
//! one passes on the other as the client wrote it.

use std::net::{IpAddr, SocketAddr};

use crate::network::Networks;

/// Where proxies say whom they had a request from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

impl ForwardedHeader {
    /// The name of the header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }

    /// Reads the name of a header, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::XForwardedFor, Self::Forwarded]
            .into_iter()
            .find(|header| header.name().eq_ignore_ascii_case(name))
    }
}

/// The address of the client whose request came from `peer`; `lines` = the values of the header, as they came.
///
/// It is the first from the right that is not trusted, else the leftmost. An entry that names no address ends the list:
/// the client is then the proxy that wrote it.
#[must_use]
pub fn client_address<'a>(
    peer: IpAddr,
    header: ForwardedHeader,
    lines: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &Networks,
) -> IpAddr {
    let mut client = peer.to_canonical();
    let entries = lines.rev().flat_map(|line| FromRight { left: Some(line), by: b',' });
    for entry in entries {
        if !trusted.contains(client) {
            break;
        }
        let node = match header {
            ForwardedHeader::XForwardedFor => Some(entry.trim()),
            ForwardedHeader::Forwarded => for_parameter(entry),
        };
        match node.and_then(address) {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

/// The one `for` of an element of `Forwarded`, without quotes.
fn for_parameter(element: &str) -> Option<&str> {
    let parameters = FromRight { left: Some(element), by: b';' };
    let mut found = parameters.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    });
    let value = found.next()?;
    if found.next().is_some() {
        return None;
    }
    Some(value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value))
}

/// An address, perhaps with a port, an IPv6 one perhaps in brackets.
fn address(node: &str) -> Option<IpAddr> {
    let bare = node.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bare {
        Some(bare) => IpAddr::V6(bare.parse().ok()?),
        None => node
            .parse::<IpAddr>()
            .ok()
            .or_else(|| node.parse::<SocketAddr>().ok().map(|socket| socket.ip()))?,
    };
    Some(address.to_canonical())
}

/// The parts of a text between separators that stand outside of quotes, from the right: so nothing that stands further
/// left, such as a quote that never ends, changes what is read.
struct FromRight<'a> {
    left: Option<&'a str>,
    by: u8,
}

impl<'a> Iterator for FromRight<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.left?;
        let bytes = text.as_bytes();
        let mut quoted = false;
        for at in (0..bytes.len()).rev() {
            match bytes[at] {
                b'"' => {
                    let escapes =
                        bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
                    quoted ^= !quoted || escapes % 2 == 0;
                }
                byte if byte == self.by && !quoted => {
                    self.left = Some(&text[..at]);
                    return Some(&text[at + 1..]);
                }
                _ => {}
            }
        }
        self.left = None;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUSTED: &str = "10.0.0.0/8, fd00::/8";

    #[track_caller]
    fn check(header: ForwardedHeader, peer: &str, lines: &[&str], expected: &str) {
        let (peer, trusted) = (peer.parse().unwrap(), TRUSTED.parse().unwrap());
        let client = client_address(peer, header, lines.iter().copied(), &trusted);
        assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{lines:?}");
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        let check = |peer, lines: &[&str], expected| {
            check(ForwardedHeader::XForwardedFor, peer, lines, expected);
        };
        check("203.0.113.9", &["198.51.100.1"], "203.0.113.9");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["198.51.100.1"], "198.51.100.1");
        check("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", &["1.1.1.1, 198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", &["1.1.1.1", "198.51.100.1 , 10.2.2.2"], "198.51.100.1");
        check("10.0.0.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3");
        check("10.0.0.1", &["198.51.100.1:5000"], "198.51.100.1");
        check("10.0.0.1", &["2001:db8::7"], "2001:db8::7");
        check("10.0.0.1", &["[2001:db8::7]:5000"], "2001:db8::7");
        check("fd00::1", &["[2001:db8::7]"], "2001:db8::7");
        check("10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1");
        for nobody in ["", "unknown", "1.1.1.1, ", "1.1.1.1, nonsense", "1.1.1.1, 300.1.1.1"] {
            check("10.0.0.1", &[nobody], "10.0.0.1");
        }
    }

    #[test]
    fn the_standard_header_is_read_from_the_right_too() {
        let check =
            |line: &str, expected| check(ForwardedHeader::Forwarded, "10.0.0.1", &[line], expected);
        check("for=198.51.100.1", "198.51.100.1");
        check("For=\"198.51.100.1:80\";proto=https;by=10.0.0.1", "198.51.100.1");
        check("for=1.1.1.1, for=198.51.100.1;host=a, for=\"10.1.1.1\"", "198.51.100.1");
        check("for=\"[2001:db8::7]:80\"", "2001:db8::7");
        check("for=\"[2001:db8::7]\"", "2001:db8::7");
        check("for=\"[fd00::5]\"", "fd00::5");
        for nobody in ["for=_hidden", "for=unknown", "proto=https", "for=1.1.1.1;for=2.2.2.2"] {
            check(nobody, "10.0.0.1");
        }
        // What a client wrote further left changes nothing, and what a proxy quotes of it neither.
        check("for=\", for=198.51.100.1", "198.51.100.1");
        check("for=198.51.100.1;host=\"a,for=1.1.1.1\"", "198.51.100.1");
        check("for=198.51.100.1;host=\"a;for=1.1.1.1\"", "198.51.100.1");
        check("for=198.51.100.1;host=\"a\\\",for=1.1.1.1\"", "198.51.100.1");
        check("for=198.51.100.1;host=\"a\\\\\"", "198.51.100.1");
    }
}
