//! What the server does for one call: bytes on the connection of the call, on the session's own stream, and on a
//! resumed one.

use super::{
    events::{answer_event, prime, prime_id, stream},
    message::{Asked, message},
    plan::{Field, Plan},
};
use crate::{
    gzip::{gzip, zlib},
    random::Random,
};

/// One step on the connection of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Bytes(Vec<u8>),
    /// The connection ends in order.
    End,
    /// It is reset.
    Reset,
    /// Nothing more comes, and the connection stays.
    Stall,
}

/// All that the server does for one call.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Without an end the connection serves on.
    pub call: Vec<Step>,
    /// What goes to the session's own stream.
    pub listen: Option<Vec<u8>>,
    /// What a stream gets that is resumed behind this event.
    pub resume: Option<(String, Vec<u8>)>,
}

/// The script of a case.
#[must_use]
pub fn script(plan: &Plan, asked: &Asked) -> Script {
    let message = message(plan, asked);
    if !plan.events {
        return Script { call: response(plan, &message), ..Script::default() };
    }
    let whole = stream(plan, asked, &message);
    let open = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let said = |bytes: &[u8], end: Step| vec![Step::Bytes([&open[..], bytes].concat()), end];
    let elsewhere = |call: Vec<Step>| Script { call, listen: Some(whole.clone()), resume: None };
    match plan.way(Field::Route) {
        "listen_202" => {
            let accepted = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n".to_vec();
            elsewhere(vec![Step::Bytes(accepted)])
        }
        "listen_empty" => elsewhere(said(b": elsewhere\n\n", Step::End)),
        "listen_held" => elsewhere(said(b": elsewhere\n\n", Step::Stall)),
        "listen_both" => Script {
            call: response(plan, &whole),
            listen: Some(answer_event(plan, asked, &message)),
            resume: None,
        },
        "resume" => Script {
            call: said(&prime(asked), Step::End),
            listen: None,
            resume: Some((prime_id(asked), whole)),
        },
        "resume_within" => {
            let half = usize::try_from(plan.position).unwrap_or(0) % whole.len().max(1);
            let begun = [prime(asked), whole[..half].to_vec()].concat();
            let end = if plan.position.is_multiple_of(2) { Step::End } else { Step::Reset };
            Script { call: said(&begun, end), listen: None, resume: Some((prime_id(asked), whole)) }
        }
        "resume_both" => Script {
            call: response(plan, &[prime(asked), whole.clone()].concat()),
            listen: None,
            resume: Some((prime_id(asked), whole)),
        },
        _ => Script { call: response(plan, &whole), ..Script::default() },
    }
}

/// Status, headers and body, as the case cuts them into pieces and off.
fn response(plan: &Plan, body: &[u8]) -> Vec<Step> {
    let (body, coding) = coded(plan, body);
    let mut head = status(plan);
    let kind = plan.way(Field::Type);
    if !kind.is_empty() {
        head.push_str(&format!("content-type: {kind}\r\n"));
    }
    head.push_str(coding);
    let (framing, body, mut end) = framed(plan, body);
    head.push_str(framing.as_str());
    head.push_str("\r\n");
    if plan.way(Field::Transfer) == "lf_heads" {
        head = head.replace("\r\n", "\n");
    }
    let mut bytes = head.as_bytes().to_vec();
    bytes.extend(&body);
    let cut = match plan.way(Field::Cut) {
        "none" => None,
        "reset" | "reset_near_end" => Some(Step::Reset),
        "stall" => Some(Step::Stall),
        _ => Some(Step::End),
    };
    if cut.is_some() {
        bytes.truncate(cut_at(plan, head.len(), body.len()));
        end = cut;
    }
    let mut steps = pieces(plan, &bytes, head.len());
    steps.extend(end);
    steps
}

fn status(plan: &Plan) -> String {
    let status = plan.way(Field::Status);
    match status {
        "plain" | "200" => "HTTP/1.1 200 OK\r\n".to_owned(),
        "100+200" => "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n".to_owned(),
        "103+200" => "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\nHTTP/1.1 200 OK\r\n".to_owned(),
        "http10" => "HTTP/1.0 200 OK\r\n".to_owned(),
        "no_reason" => "HTTP/1.1 200\r\n".to_owned(),
        "307" => "HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\n".to_owned(),
        other => format!("HTTP/1.1 {other} Status\r\n"),
    }
}

fn coded(plan: &Plan, body: &[u8]) -> (Vec<u8>, &'static str) {
    match plan.way(Field::Coding) {
        "identity_told" => (body.to_vec(), "content-encoding: identity\r\n"),
        "gzip" => (gzip(body), "content-encoding: gzip\r\n"),
        "gzip_upper" => (gzip(body), "content-encoding: GZIP\r\n"),
        "x-gzip" => (gzip(body), "content-encoding: x-gzip\r\n"),
        "gzip_untold" => (gzip(body), ""),
        "gzip_told_only" => (body.to_vec(), "content-encoding: gzip\r\n"),
        "deflate" => (zlib(body), "content-encoding: deflate\r\n"),
        "br_told_only" => (body.to_vec(), "content-encoding: br\r\n"),
        "gzip_twice" => (gzip(&gzip(body)), "content-encoding: gzip, gzip\r\n"),
        "empty_told" => (body.to_vec(), "content-encoding: \r\n"),
        _ => (body.to_vec(), ""),
    }
}

/// The headers that say where the body ends, the body so written, and what ends the connection.
fn framed(plan: &Plan, body: Vec<u8>) -> (String, Vec<u8>, Option<Step>) {
    let length = |length: usize| format!("content-length: {length}\r\n");
    let chunk = |piece: &[u8], extension: &str| {
        [format!("{:x}{extension}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
    };
    let chunked = "transfer-encoding: chunked\r\n".to_owned();
    let last = b"0\r\n\r\n".to_vec();
    match plan.way(Field::Transfer) {
        "chunked_small" => {
            let body = body.chunks(7).flat_map(|piece| chunk(piece, "")).collect::<Vec<u8>>();
            (chunked, [body, last].concat(), None)
        }
        "chunk_extension" => (chunked, [chunk(&body, ";a=\"b;c\""), last].concat(), None),
        "chunk_size_zeros" => {
            let size = format!("00000{:X}\r\n", body.len()).into_bytes();
            (chunked, [size, body, b"\r\n".to_vec(), last].concat(), None)
        }
        "trailers" => {
            (chunked, [chunk(&body, ""), b"0\r\nx-done: 1\r\n\r\n".to_vec()].concat(), None)
        }
        "until_close" => ("connection: close\r\n".to_owned(), body, Some(Step::End)),
        "length_too_long" => (length(body.len() + 5), body, Some(Step::End)),
        "length_too_short" => (length(body.len().saturating_sub(1)), body, Some(Step::End)),
        "length_twice" => (length(body.len()).repeat(2), body, None),
        "length_and_chunked" => {
            (format!("{}{chunked}", length(3)), [chunk(&body, ""), last].concat(), Some(Step::End))
        }
        "length" => (length(body.len()), body, None),
        "plain" if !plan.events => (length(body.len()), body, None),
        _ => (chunked, [chunk(&body, ""), last].concat(), None),
    }
}

/// Where the case cuts: anywhere behind the head, or among the last bytes.
fn cut_at(plan: &Plan, head: usize, body: usize) -> usize {
    let position = usize::try_from(plan.position).unwrap_or(0);
    if plan.way(Field::Cut).ends_with("near_end") {
        return head + body - (1 + position % 12).min(body);
    }
    match position % 8 {
        0 => position / 8 % head.max(1),
        _ => head + position / 8 % body.max(1),
    }
}

fn pieces(plan: &Plan, bytes: &[u8], head: usize) -> Vec<Step> {
    let mut random = Random::for_case(plan.position, 3, 0);
    let mut ends: Vec<usize> = match plan.way(Field::Pieces) {
        "each_byte" => (bytes.len().saturating_sub(150)..bytes.len()).collect(),
        "two" => vec![head + random.index(bytes.len().saturating_sub(head).max(1))],
        "two_near_end" => vec![bytes.len().saturating_sub(1 + random.index(8))],
        "many" => (0..8).map(|_| random.index(bytes.len().max(1))).collect(),
        _ => Vec::new(),
    };
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut from = 0;
    let mut steps = Vec::new();
    for end in ends.into_iter().filter(|end| *end <= bytes.len()) {
        if end > from {
            steps.push(Step::Bytes(bytes[from..end].to_vec()));
            from = end;
        }
    }
    steps
}
