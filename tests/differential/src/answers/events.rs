//! An answer as a stream of events, in all the ways that the standard allows, and in some that it does not.

use super::{
    message::{Asked, fill, fill_asked, lines},
    plan::{Field, Plan},
};
use crate::random::Random;

/// The id of the event behind which a case can be resumed.
#[must_use]
pub fn prime_id(asked: &Asked) -> String {
    format!("r-{}", asked.tool)
}

/// The event that lets a client resume.
#[must_use]
pub fn prime(asked: &Asked) -> Vec<u8> {
    format!("id: {}\nretry: 10\ndata:\n\n", prime_id(asked)).into_bytes()
}

/// The whole stream of a case: what stands before, the answer, what stands behind.
#[must_use]
pub fn stream(plan: &Plan, asked: &Asked, message: &[u8]) -> Vec<u8> {
    let mut stream = match plan.way(Field::Before) {
        "plain" => Vec::new(),
        "no_data" => b"\n\n".to_vec(),
        "comment" => b": hello\n\n".to_vec(),
        "event_without_data" => b"event: message\n\n".to_vec(),
        "prime" => prime(asked),
        _ => data(&fill_asked(plan.text(Field::Before), asked)),
    };
    stream.extend(event(plan.way(Field::Event), message, asked));
    if plan.way(Field::After) != "plain" {
        let text = fill(plan.text(Field::After), &[("m", message), ("i", asked.id.as_bytes())]);
        stream.extend(data(&text));
    }
    if plan.way(Field::Event) == "bom_start" {
        stream.splice(0..0, "\u{feff}".bytes());
    }
    finish(plan, stream)
}

/// The answer's event alone.
#[must_use]
pub fn answer_event(plan: &Plan, asked: &Asked, message: &[u8]) -> Vec<u8> {
    event(plan.way(Field::Event), message, asked)
}

/// An event with this text, a line of data for each of its lines.
fn data(text: &[u8]) -> Vec<u8> {
    let mut event = fields(b"data: ", text);
    event.push(b'\n');
    event
}

fn fields(name: &[u8], text: &[u8]) -> Vec<u8> {
    text.split(|byte| *byte == b'\n').flat_map(|line| [name, line, b"\n"].concat()).collect()
}

fn event(way: &str, message: &[u8], asked: &Asked) -> Vec<u8> {
    let around = |before: &[u8], behind: &[u8]| {
        [before, &fields(b"data: ", message), behind, b"\n"].concat()
    };
    match way {
        "message" => around(b"event: message\n", b""),
        "other" => around(b"event: other\n", b""),
        "empty_type" => around(b"event:\n", b""),
        "error_type" => around(b"event: error\n", b""),
        "type_twice" => around(b"event: other\nevent: message\n", b""),
        "no_space" => [fields(b"data:", message), b"\n".to_vec()].concat(),
        "two_spaces" => [fields(b"data:  ", message), b"\n".to_vec()].concat(),
        "tab" => [fields(b"data:\t", message), b"\n".to_vec()].concat(),
        "space_before_name" => [fields(b" data: ", message), b"\n".to_vec()].concat(),
        "upper_name" => [fields(b"DATA: ", message), b"\n".to_vec()].concat(),
        "with_id" => around(format!("id: a-{}\n", asked.tool).as_bytes(), b""),
        "with_id_behind" => around(b"", format!("id: b-{}\n", asked.tool).as_bytes()),
        "with_id_nul" => around(b"id: a\0b\n", b""),
        "retry" => around(b"retry: 10\n", b""),
        "retry_words" => around(b"retry: soon\n", b""),
        "comment_inside" => around(b": a\n", b": b\n:\n"),
        "several_lines" => [fields(b"data: ", &lines(message)), b"\n".to_vec()].concat(),
        "empty_line_before" => around(b"data:\n", b""),
        "data_word_last" => around(b"", b"data\n"),
        "unknown_field" => around(b"x: 1\n", b"y\n"),
        "bom_event" => around("\u{feff}".as_bytes(), b""),
        "long_comment" => around(&[&b": "[..], &b"x".repeat(70_000), b"\n"].concat(), b""),
        "no_data" => [&b"event: message\n"[..], message, b"\n\n"].concat(),
        _ => data(message),
    }
}

/// The ends of lines and of the stream.
fn finish(plan: &Plan, mut stream: Vec<u8>) -> Vec<u8> {
    match plan.way(Field::Tail) {
        "one_line_end" => stream.truncate(stream.len() - 1),
        "no_line_end" => stream.truncate(stream.len() - 2),
        "comment" => stream.extend_from_slice(b": bye"),
        "cr_only" => {
            stream.truncate(stream.len() - 1);
            stream.push(b'\r');
        }
        "more_blank" => stream.extend_from_slice(b"\n\n\n"),
        _ => {}
    }
    let mut random = Random::for_case(plan.position, 2, 0);
    let ends: &[&str] = match plan.way(Field::Ending) {
        "crlf" => &["\r\n"],
        "cr" => &["\r"],
        "mixed" => &["\n", "\r\n", "\r"],
        "lf_crlf" => &["\n", "\r\n"],
        _ => &["\n"],
    };
    let mut ended = Vec::with_capacity(stream.len());
    for byte in stream {
        if byte == b'\n' {
            ended.extend_from_slice(random.pick(ends).as_bytes());
        } else {
            ended.push(byte);
        }
    }
    ended
}
