//! The text of an answer: a template with what only the request knows put in.

use super::{
    plan::{Field, Plan},
    spellings::special,
};

/// What of the request an answer repeats.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The id as the request has it.
    pub id: String,
    pub tool: String,
    /// By the revision 2026-07-28, which wants a `resultType`.
    pub new: bool,
}

/// Puts values in; `«name»` without a value is one of the special bytes.
#[must_use]
pub fn fill(template: &str, values: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('«') {
        bytes.extend_from_slice(before.as_bytes());
        let Some((name, behind)) = behind.split_once('»') else { break };
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => bytes.extend_from_slice(value),
            None => bytes.extend(special(name).unwrap_or_default()),
        }
        rest = behind;
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// A text with the request's id and tool put in.
#[must_use]
pub fn fill_asked(template: &str, asked: &Asked) -> Vec<u8> {
    let bare = asked.id.trim_matches('"');
    let escaped: String = bare.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let hexadecimal = bare.parse::<u64>().map(|id| format!("{id:x}")).unwrap_or_default();
    fill(
        template,
        &[
            // A text as the request's id keeps its quotes; inside quotes it is put in bare.
            ("i", if template.contains("\"«i»") { bare.as_bytes() } else { asked.id.as_bytes() }),
            ("u", escaped.as_bytes()),
            ("js", as_javascript(&asked.id).as_bytes()),
            ("x", hexadecimal.as_bytes()),
            ("t", asked.tool.as_bytes()),
            ("rt", if asked.new { br#","resultType":"complete""# } else { b"" }),
        ],
    )
}

/// An id as a server in JavaScript writes what it has read: numbers are doubles, and half of a pair of surrogates is
/// escaped in small letters.
fn as_javascript(id: &str) -> String {
    match id.parse::<f64>() {
        Ok(number) if !id.starts_with('"') => number.to_string(),
        _ => match serde_json::from_str::<String>(id) {
            Ok(text) => serde_json::Value::from(text).to_string(),
            Err(_) => id.to_lowercase(),
        },
    }
}

/// The whole message of a case.
#[must_use]
pub fn message(plan: &Plan, asked: &Asked) -> Vec<u8> {
    let id = fill_asked(plan.text(Field::Id), asked);
    let result = fill_asked(plan.text(Field::Result), asked);
    let message = fill(plan.text(Field::Members), &[("id", &id), ("r", &result)]);
    let replaced = |from: u8, to: &[u8]| -> Vec<u8> {
        message
            .iter()
            .flat_map(|byte| if *byte == from { to.to_vec() } else { vec![*byte] })
            .collect()
    };
    let comma = [message.strip_suffix(b"}").unwrap_or(&message), b",}"].concat();
    let quoted = serde_json::to_vec(&String::from_utf8_lossy(&message)).unwrap_or_default();
    let lines = lines(&message);
    fill(
        plan.text(Field::Text),
        &[
            ("m", &message),
            ("lines", &lines),
            ("quotes", &replaced(b'"', b"'")),
            ("comma", &comma),
            ("quoted", &quoted),
        ],
    )
}

/// The same JSON over several lines: a line break behind each comma and bracket outside of texts.
#[must_use]
pub fn lines(json: &[u8]) -> Vec<u8> {
    let (mut lines, mut inside, mut escaped) = (Vec::new(), false, false);
    for byte in json {
        lines.push(*byte);
        if inside {
            inside = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
        } else if *byte == b'"' {
            inside = true;
        } else if matches!(byte, b',' | b'{' | b'[') {
            lines.extend_from_slice(b"\n  ");
        }
    }
    lines
}
