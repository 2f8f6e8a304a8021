//! A reader that takes whatever it can: what the sloppiest of servers would run for some bytes.
//!
//! It reads JSON with comments, single quotes, names without quotes, commas too many, raw control characters, a byte
//! order mark, Latin-1 and UTF-16; one message behind another, or in a batch, or in a line of its own. Members may
//! stand twice (the first holds, or the last: both readings are taken) and differ in case.

/// What a lenient reader makes of some JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Object(Vec<(String, Json)>),
    Array(Vec<Json>),
    Text(String),
    /// Numbers, words, and what nobody can read.
    Other(String),
}

/// One call that a reader would run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    pub tool: String,
    /// The id as JSON; `None` = it has none.
    pub id: Option<String>,
}

/// What a reader of lines may take for the end of one.
const LINE_ENDS: [char; 2] = ['\n', '\r'];

/// Every call that some reader of these bytes would run, without repetitions; `lines` = a reader of lines, too.
#[must_use]
pub fn calls(bytes: &[u8], lines: bool) -> Vec<Call> {
    let mut calls = Vec::new();
    for text in texts(bytes) {
        for message in documents(&text) {
            collect(&message, &mut calls);
        }
        // Only a line that begins a message is one: a broken part of another message is not.
        let lines = text.split(LINE_ENDS).filter(|_| lines);
        for line in lines.filter(|line| line.trim_start().starts_with(['{', '['])) {
            documents(line).iter().take(1).for_each(|message| collect(message, &mut calls));
        }
    }
    calls.sort();
    calls.dedup();
    calls
}

/// Every result that some reader would find in what came: of JSON-RPC, and said to be neither an error nor a task.
#[must_use]
pub fn results(bytes: &[u8]) -> Vec<String> {
    let mut results = Vec::new();
    for document in documents(&String::from_utf8_lossy(bytes)) {
        let messages = match document {
            Json::Array(messages) => messages,
            message => vec![message],
        };
        for message in &messages {
            let Json::Object(members) = message else { continue };
            let found = all(members, "result").into_iter().filter(|result| is_result(result));
            results.extend(found.map(|result| format!("{result:?}")));
        }
    }
    results
}

fn is_result(result: &Json) -> bool {
    let Json::Object(result) = result else { return false };
    let is_error = all(result, "isError").contains(&&Json::Other("true".to_owned()));
    let later = ["task", "input_required"].map(|kind| Json::Text(kind.to_owned()));
    let is_later = all(result, "resultType").into_iter().any(|kind| later.contains(kind));
    let is_task = !all(result, "task").is_empty() && all(result, "content").is_empty();
    // What a server says of itself is no result of a call.
    let greets = !all(result, "serverInfo").is_empty();
    !(is_error || is_later || is_task || greets)
}

/// The texts that the bytes may be.
fn texts(bytes: &[u8]) -> Vec<String> {
    let mut texts = vec![String::from_utf8_lossy(bytes).into_owned()];
    if std::str::from_utf8(bytes).is_err() {
        texts.push(bytes.iter().map(|byte| char::from(*byte)).collect());
    }
    if bytes.contains(&0) && bytes.len().is_multiple_of(2) {
        let units = |make: fn([u8; 2]) -> u16| -> Vec<u16> {
            bytes.chunks_exact(2).map(|pair| make([pair[0], pair[1]])).collect()
        };
        texts.push(String::from_utf16_lossy(&units(u16::from_le_bytes)));
        texts.push(String::from_utf16_lossy(&units(u16::from_be_bytes)));
    }
    texts
}

/// The JSON documents that stand behind one another in a text.
fn documents(text: &str) -> Vec<Json> {
    let chars: Vec<char> = text.chars().collect();
    let (mut parser, mut documents) = (Parser { chars: &chars, at: 0, depth: 0 }, Vec::new());
    loop {
        parser.space();
        let from = parser.at;
        match parser.peek() {
            None => return documents,
            Some('{' | '[') => documents.push(parser.value()),
            Some(_) => {
                parser.at += 1; // Whatever stands between documents.
            }
        }
        if parser.at == from {
            parser.at += 1;
        }
    }
}

fn collect(message: &Json, calls: &mut Vec<Call>) {
    match message {
        Json::Array(messages) => messages.iter().for_each(|message| collect(message, calls)),
        Json::Object(members) => {
            let methods = all(members, "method");
            if !methods.into_iter().any(is_call) {
                return;
            }
            let id = all(members, "id").first().map(|id| write(id));
            for params in all(members, "params") {
                let names: Vec<&Json> = match params {
                    Json::Object(params) => all(params, "name"),
                    Json::Array(params) => params.iter().take(1).collect(),
                    name => vec![name],
                };
                for name in names {
                    if let Json::Text(tool) = name {
                        calls.push(Call { tool: tool.clone(), id: id.clone() });
                    }
                }
            }
        }
        Json::Text(_) | Json::Other(_) => {}
    }
}

/// The values of all members that some reader takes for `name`.
fn all<'a>(members: &'a [(String, Json)], name: &str) -> Vec<&'a Json> {
    members.iter().filter(|(known, _)| same(known, name)).map(|(_, value)| value).collect()
}

/// Equal for a reader that ignores case, space around it, and what stands behind a NUL.
fn same(text: &str, wanted: &str) -> bool {
    let wanted = wanted.to_lowercase();
    let text = text.split('\0').next().unwrap_or_default().trim();
    let folded = text.chars().flat_map(|c| match c {
        'ſ' => 's'.to_lowercase(),
        '\u{212a}' => 'k'.to_lowercase(),
        c => c.to_lowercase(),
    });
    folded.eq(wanted.chars())
}

fn is_call(method: &Json) -> bool {
    match method {
        Json::Text(method) => same(method, "tools/call"),
        Json::Array(methods) => methods.first().is_some_and(is_call),
        _ => false,
    }
}

fn write(json: &Json) -> String {
    match json {
        Json::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
        Json::Other(word) => word.clone(),
        Json::Array(_) | Json::Object(_) => "null".to_owned(),
    }
}

struct Parser<'a> {
    chars: &'a [char],
    at: usize,
    depth: u32,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Steps over white space of any kind, byte order marks and comments.
    fn space(&mut self) {
        while let Some(c) = self.peek() {
            let comment = match (c, self.chars.get(self.at + 1)) {
                ('/', Some('/')) | ('#', _) => Some(false),
                ('/', Some('*')) => Some(true),
                _ => None,
            };
            match comment {
                Some(true) => {
                    self.at += 2;
                    while self.at < self.chars.len()
                        && !(self.chars[self.at - 1] == '/' && self.chars[self.at - 2] == '*')
                    {
                        self.at += 1;
                    }
                }
                Some(false) => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                None if c.is_whitespace() || c.is_control() || c == '\u{feff}' => self.at += 1,
                None => return,
            }
        }
    }

    fn value(&mut self) -> Json {
        self.space();
        self.depth += 1;
        let value = match self.peek() {
            _ if self.depth > 200 => self.word(), // Deeper than any message: no reader runs it.
            Some('{') => self.object(),
            Some('[') => self.array(),
            Some(quote @ ('"' | '\'')) => Json::Text(self.text(quote)),
            _ => self.word(),
        };
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Json {
        self.at += 1;
        let mut members = Vec::new();
        loop {
            self.space();
            if self.take('}') || self.peek().is_none() {
                return Json::Object(members);
            }
            if self.take(',') {
                continue;
            }
            let from = self.at;
            let name = match self.value() {
                Json::Text(name) | Json::Other(name) => name,
                Json::Object(_) | Json::Array(_) => String::new(),
            };
            self.space();
            if self.take(':') {
                members.push((name, self.value()));
            }
            self.at = self.at.max(from + 1);
        }
    }

    fn array(&mut self) -> Json {
        self.at += 1;
        let mut values = Vec::new();
        loop {
            self.space();
            if self.take(']') || self.peek().is_none() {
                return Json::Array(values);
            }
            if self.take(',') {
                continue;
            }
            let from = self.at;
            values.push(self.value());
            self.at = self.at.max(from + 1);
        }
    }

    fn text(&mut self, quote: char) -> String {
        self.at += 1;
        let (mut text, mut high) = (String::new(), None::<u32>);
        while let Some(c) = self.peek() {
            self.at += 1;
            if c == quote {
                break;
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            let escape = self.peek().unwrap_or('\\');
            self.at += 1;
            let decoded = match escape {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'u' | 'x' => {
                    let digits = if escape == 'u' { 4 } else { 2 };
                    let end = (self.at + digits).min(self.chars.len());
                    let hexadecimal: String = self.chars[self.at..end].iter().collect();
                    let unit = u32::from_str_radix(&hexadecimal, 16).unwrap_or(0xfffd);
                    self.at = end;
                    match (high.take(), unit) {
                        (_, 0xd800..=0xdbff) => {
                            high = Some(unit);
                            continue;
                        }
                        (Some(high), 0xdc00..=0xdfff) => {
                            let code = 0x10000 + ((high - 0xd800) << 10) + (unit - 0xdc00);
                            char::from_u32(code).unwrap_or('\u{fffd}')
                        }
                        (_, unit) => char::from_u32(unit).unwrap_or('\u{fffd}'),
                    }
                }
                other => other,
            };
            text.push(decoded);
        }
        text
    }

    fn word(&mut self) -> Json {
        let from = self.at;
        while let Some(c) = self.peek() {
            if matches!(c, ',' | ':' | '}' | ']' | '{' | '[' | '"' | '\'') || c.is_whitespace() {
                break;
            }
            self.at += 1;
        }
        Json::Other(self.chars[from..self.at].iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn runs(bytes: &[u8], tools: &[&str]) {
        let calls = calls(bytes, true);
        let mut found: Vec<&str> = calls.iter().map(|call| call.tool.as_str()).collect();
        found.dedup();
        assert_eq!(found, tools, "{}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn the_lenient_reader_runs_what_any_reader_would() {
        runs(br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#, &["a"]);
        runs(br#"{"method":"tools/call","params":{"name":"a"}}"#, &["a"]);
        runs(
            br#"{"method":"ping","method":"tools/call","params":{"name":"a","name":"b"}}"#,
            &["a", "b"],
        );
        runs(br#"{"METHOD":"tools/call","Params":{"NAME":"a"}}"#, &["a"]);
        runs(b"{'method':'tools/call',/* x */params:{name:'a',},}", &["a"]);
        runs(br#"{"m\u0065thod":"tools\/call","params":{"name":"\u0061"}}"#, &["a"]);
        runs(br#"[{"method":"ping"},{"method":"tools/call","params":{"name":"a"}}]"#, &["a"]);
        runs(
            b"{\"method\":\"ping\"}{\"method\":\"tools/call\",\"params\":{\"name\":\"a\"}}",
            &["a"],
        );
        runs(b"{\"x\":\r{\"method\":\"tools/call\",\"params\":{\"name\":\"a\"}}\r}", &["a"]);
        let utf16 = r#"{"method":"tools/call","params":{"name":"a"}}"#.encode_utf16();
        runs(&utf16.flat_map(u16::to_le_bytes).collect::<Vec<u8>>(), &["a"]);
        for none in
            ["", "{", "[", "\"", "{\"method\":\"ping\",\"params\":{\"name\":\"a\"}}", "{\"a\":"]
        {
            runs(none.as_bytes(), &[]);
        }
    }

    #[test]
    fn nothing_makes_the_lenient_reader_hang() {
        for seed in 0..2_000 {
            let mut random = crate::random::Random::for_case(seed, 9, 0);
            let bytes: Vec<u8> =
                (0..40).map(|_| *random.pick(b"{}[]\",:'\\u0/*a \n#tools/call")).collect();
            assert!(calls(&bytes, true).len() < 40);
        }
    }
}
