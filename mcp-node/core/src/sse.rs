//! Splits a stream of server-sent events into frames without changing a byte of it.
//!
//! A frame is everything up to and with an empty line. Lines end with LF, CR or CRLF. Whatever is pushed comes out
//! again, in order: frames, then [`Splitter::rest`]; only a byte order mark before the first one is dropped, since some
//! clients would take it for a part of a field's name. Absent on purpose: what the fields mean, beyond `data` and the type.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};

/// A frame is larger than this stream may hold back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {limit} bytes")]
pub struct FrameTooLarge {
    pub limit: usize,
}

/// A stream between its chunks.
#[derive(Debug)]
pub struct Splitter {
    buffer: BytesMut,
    /// Up to here the buffer was looked through.
    looked: usize,
    /// Where the current line begins.
    line: usize,
    /// The last byte before `looked` was a CR: an LF now belongs to it.
    after_cr: bool,
    /// Nothing but a part of a byte order mark has come.
    at_start: bool,
    limit: usize,
}

/// What may stand before the first frame of a stream.
const MARK: &[u8] = b"\xef\xbb\xbf";

impl Splitter {
    /// `limit` = the largest frame that is held. Unit: bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let buffer = BytesMut::new();
        Self { buffer, looked: 0, line: 0, after_cr: false, at_start: true, limit }
    }

    /// Takes in what came.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
        if self.at_start {
            let is_marked = self.buffer.starts_with(MARK);
            if is_marked {
                self.buffer.advance(MARK.len());
            }
            self.at_start = !is_marked && MARK.starts_with(&self.buffer);
        }
    }

    /// The next whole frame, as it came; `None` = more must come first.
    ///
    /// # Errors
    /// More than the limit came without an end of a frame.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameTooLarge> {
        if self.at_start {
            return Ok(None); // A part of a byte order mark holds no end of a line.
        }
        while let Some(place) = memchr::memchr2(b'\n', b'\r', &self.buffer[self.looked..]) {
            let at = self.looked + place;
            let byte = self.buffer[at];
            let ends_crlf = byte == b'\n' && self.after_cr && place == 0;
            self.looked = at + 1;
            self.after_cr = byte == b'\r';
            let empty = at == self.line;
            self.line = self.looked;
            if ends_crlf {
                if at == 0 {
                    return Ok(Some(self.cut())); // A frame ended at its CR; a client may wait for this LF.
                }
                continue; // The line ended at its CR already.
            }
            if empty && at > 0 {
                self.take_lf_after_cr();
                return Ok(Some(self.cut()));
            }
        }
        self.after_cr &= self.looked == self.buffer.len();
        self.looked = self.buffer.len();
        if self.buffer.len() > self.limit {
            Err(FrameTooLarge { limit: self.limit })
        } else {
            Ok(None)
        }
    }

    /// What came after the last whole frame; nothing more will come.
    #[must_use]
    pub fn rest(self) -> Bytes {
        self.buffer.freeze()
    }

    fn take_lf_after_cr(&mut self) {
        if self.after_cr && self.buffer.get(self.looked) == Some(&b'\n') {
            self.looked += 1;
            self.after_cr = false;
        }
    }

    fn cut(&mut self) -> Bytes {
        let frame = self.buffer.split_to(self.looked).freeze();
        (self.looked, self.line) = (0, 0);
        frame
    }
}

/// A frame's lines, and what stands behind the last end of one.
fn lines(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = memchr::memchr2_iter(b'\n', b'\r', frame).chain(std::iter::once(frame.len()));
    ends.scan(0, |begin, end| {
        let line = &frame[*begin..end];
        *begin = end + 1;
        Some(line)
    })
}

/// The data of a frame: its `data` lines, joined by LF; borrowed when there is one. `None` = it has none.
#[must_use]
pub fn data(frame: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut lines = lines(frame).filter_map(|line| {
        let value = match line.strip_prefix(b"data:") {
            Some(value) => value,
            None if line == b"data" => b"",
            None => return None,
        };
        Some(value.strip_prefix(b" ").unwrap_or(value))
    });
    let first = lines.next()?;
    let Some(second) = lines.next() else { return Some(Cow::Borrowed(first)) };
    let mut joined = first.to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.push(b'\n');
        joined.extend_from_slice(line);
    }
    Some(Cow::Owned(joined))
}

/// Whether clients take the frame's data for a message: its type is `message`, or it has none.
#[must_use]
pub fn is_message(frame: &[u8]) -> bool {
    let types = lines(frame).filter_map(|line| {
        let value = line.strip_prefix(b"event:").or((line == b"event").then_some(&b""[..]))?;
        Some(value.strip_prefix(b" ").unwrap_or(value))
    });
    types.last().is_none_or(|kind| kind.is_empty() || kind == b"message")
}

/// The frame without its type and data: a place in the stream, and nothing that a client could take for a message.
#[must_use]
pub fn without_data(frame: &[u8]) -> Vec<u8> {
    let lines = lines(frame);
    let kept = lines.filter(|line| line.starts_with(b"id:") || line.starts_with(b"retry:"));
    let mut written: Vec<u8> = kept.flat_map(|line| [line, b"\n"].concat()).collect();
    if !written.is_empty() {
        written.push(b'\n');
    }
    written
}

/// The value of a field of a frame, the last if there are several; `None` = it has none.
#[must_use]
pub fn field<'a>(frame: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let lines = lines(frame);
    let values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(b":"));
    values.last().map(|value| value.strip_prefix(b" ").unwrap_or(value))
}

/// The frame with this message for its data, in normal form; the same bytes, where it is so already.
#[must_use]
pub fn with_message(frame: Bytes, message: &[u8]) -> Bytes {
    if is_normal(&frame) && data(&frame).is_some_and(|data| *data == *message) {
        return frame;
    }
    with_data(&frame, message).into()
}

/// The frame with other data, and every other line of it as it was.
#[must_use]
pub fn with_data(frame: &[u8], data: &[u8]) -> Vec<u8> {
    let is_data = |line: &[u8]| line == b"data" || line.starts_with(b"data:");
    let mut written = Vec::with_capacity(frame.len());
    for line in lines(frame).filter(|line| is_field(line) && !is_data(line)) {
        written.extend_from_slice(line);
        written.push(b'\n');
    }
    for line in lines(data) {
        written.extend_from_slice(b"data: ");
        written.extend_from_slice(line);
        written.push(b'\n');
    }
    written.push(b'\n');
    written
}

/// The frame with line feeds for the ends of its lines, and no line that clients do not know: some readers end a line
/// elsewhere, or take a name with something around it for the name.
#[must_use]
pub fn normal(frame: Bytes) -> Bytes {
    if is_normal(&frame) {
        return frame;
    }
    match data(&frame) {
        Some(data) => with_data(&frame, &data).into(),
        None => {
            let mut written = with_data(&frame, b"");
            let data = written.len() - b"data: \n\n".len();
            written.drain(data..data + b"data: \n".len());
            if written.len() > 1 { written.into() } else { Bytes::new() }
        }
    }
}

fn is_normal(frame: &[u8]) -> bool {
    let is_known = |line: &[u8]| line.is_empty() || line == b"data" || is_field(line);
    memchr::memchr(b'\r', frame).is_none() && lines(frame).all(is_known)
}

/// Whether a line is a comment, or a field that the standard knows.
fn is_field(line: &[u8]) -> bool {
    [&b":"[..], b"data:", b"event:", b"id:", b"retry:"].iter().any(|name| line.starts_with(name))
}

/// The frame with another value behind each `id:` that has one, and every other byte as it was.
#[must_use]
pub fn with_ids(frame: &[u8], other: impl Fn(&str) -> String) -> Cow<'_, [u8]> {
    let mut written = vec![];
    let mut copied = 0;
    for line in lines(frame) {
        let Some(value) = line.strip_prefix(b"id:") else { continue };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let Ok(text) = std::str::from_utf8(value) else { continue };
        if !text.is_empty() {
            let start = value.as_ptr().addr() - frame.as_ptr().addr();
            written.extend_from_slice(&frame[copied..start]);
            written.extend_from_slice(other(text).as_bytes());
            copied = start + value.len();
        }
    }
    if copied == 0 {
        return Cow::Borrowed(frame);
    }
    written.extend_from_slice(&frame[copied..]);
    Cow::Owned(written)
}

/// The frame with its data edited and every other byte as it was; `None` = the edit gave nothing, or the data lies in
/// several lines. What the edit gives holds no line break that was not there.
#[must_use]
pub fn edited(frame: &[u8], edit: impl FnOnce(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let Some(Cow::Borrowed(data)) = data(frame) else { return None };
    let start = data.as_ptr().addr() - frame.as_ptr().addr();
    let (before, after) = (&frame[..start], &frame[start + data.len()..]);
    Some([before, &edit(data)?, after].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(chunks: &[&[u8]]) -> (Vec<Bytes>, Bytes) {
        let (mut splitter, mut frames) = (Splitter::new(1 << 20), Vec::new());
        for chunk in chunks {
            splitter.push(chunk);
            while let Some(frame) = splitter.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        (frames, splitter.rest())
    }

    #[test]
    fn lines_end_in_three_ways() {
        #[track_caller]
        fn check(stream: &str, expected: &[&str], rest: &str) {
            let (found, left) = frames(&[stream.as_bytes()]);
            let found: Vec<_> = found.iter().map(|f| std::str::from_utf8(f).unwrap()).collect();
            assert_eq!((found.as_slice(), &left[..]), (expected, rest.as_bytes()), "{stream:?}");
        }
        check("data: a\n\ndata: b\n\n", &["data: a\n\n", "data: b\n\n"], "");
        check("data: a\r\n\r\ndata: b\r\n\r\n", &["data: a\r\n\r\n", "data: b\r\n\r\n"], "");
        check("data: a\r\rdata: b\r\r", &["data: a\r\r", "data: b\r\r"], "");
        check(": ping\n\n\ndata: a\n\nid: 7\nda", &[": ping\n\n", "\ndata: a\n\n"], "id: 7\nda");
        check("data: a\n", &[], "data: a\n");
    }

    #[test]
    fn no_byte_that_a_client_may_wait_for_is_kept_back() {
        let (found, rest) = frames(&[b"data: a\r\n\r", b"\n"]);
        assert_eq!(
            (found.as_slice(), rest.len()),
            (&["data: a\r\n\r".into(), Bytes::from("\n")][..], 0)
        );
    }

    #[test]
    fn data_is_what_the_client_will_read() {
        #[track_caller]
        fn check(frame: &str, expected: Option<&str>) {
            assert_eq!(data(frame.as_bytes()).as_deref(), expected.map(str::as_bytes), "{frame:?}");
        }
        check("event: message\nid: 1\ndata: {\"a\":1}\n\n", Some("{\"a\":1}"));
        check("data:{}\r\n\r", Some("{}"));
        check("\ndata: a\ndata: b\n\n", Some("a\nb"));
        check("data\n\n", Some(""));
        check(": data: x\n\n", None);
        check("database: x\n\n", None);
        check("\u{feff}data: x\n\n", None);
    }

    #[test]
    fn a_mark_counts_for_nothing_before_the_first_frame_and_for_a_name_later() {
        let stream = "\u{feff}data: a\n\n\u{feff}data: b\n\n".as_bytes();
        for cut in 0..6 {
            let (found, _) = frames(&[&stream[..cut], &stream[cut..]]);
            let data: Vec<_> = found.iter().map(|frame| data(frame)).collect();
            assert_eq!(data, [Some(Cow::Borrowed(&b"a"[..])), None], "cut at {cut}");
        }
        let (found, _) = frames(&["\u{feff}".as_bytes(), "\u{feff}data: a\n\n".as_bytes()]);
        assert_eq!(data(&found[0]), None, "only one is dropped");
    }

    #[test]
    fn only_events_of_no_type_or_of_messages_are_messages() {
        #[track_caller]
        fn check(frame: &str, expected: bool) {
            assert_eq!(is_message(frame.as_bytes()), expected, "{frame:?}");
        }
        check("data: {}\n\n", true);
        check("event: message\r\ndata: {}\r\n\r\n", true);
        check("event:message\ndata: {}\n\n", true);
        check("event\ndata: {}\n\n", true);
        check("event: ping\nevent: message\ndata: {}\n\n", true);
        check("event: message\nevent: ping\ndata: {}\n\n", false);
        check("event: Message\ndata: {}\n\n", false);
        check("event:  message\ndata: {}\n\n", false);
        check("events: ping\ndata: {}\n\n", true);
    }

    #[test]
    fn other_data_leaves_the_other_lines() {
        #[track_caller]
        fn check(frame: &str, with: &str, expected: &str) {
            let found = with_data(frame.as_bytes(), with.as_bytes());
            assert_eq!(std::str::from_utf8(&found).unwrap(), expected, "{frame:?}");
        }
        check(
            "event: message\r\nid: 7\r\ndata: a\r\n\r\n",
            "b",
            "event: message\nid: 7\ndata: b\n\n",
        );
        check("data: a\ndata: b\nretry: 5\n\n", "c\nd", "retry: 5\ndata: c\ndata: d\n\n");
        check("data: a\n: hush\ndatabase: x\n\n", "b", ": hush\ndata: b\n\n");
    }

    #[test]
    fn only_the_data_of_a_frame_is_edited() {
        let upper = |data: &[u8]| Some(data.to_ascii_uppercase());
        let edit =
            |frame: &str| edited(frame.as_bytes(), upper).map(|f| String::from_utf8(f).unwrap());
        let frame = "event: message\r\nid: a\r\ndata: {\"a\":1}\r\n\r\n";
        assert_eq!(
            edit(frame).as_deref(),
            Some("event: message\r\nid: a\r\ndata: {\"A\":1}\r\n\r\n")
        );
        assert_eq!(edit("data:x\n\n").as_deref(), Some("data:X\n\n"));
        assert_eq!(edit("data: a\ndata: b\n\n"), None, "in several lines");
        assert_eq!(edit(": data: a\n\n"), None);
    }

    #[test]
    fn a_frame_has_no_line_that_a_reader_could_take_for_another() {
        #[track_caller]
        fn check(frame: &'static str, expected: &str) {
            let found = normal(Bytes::from_static(frame.as_bytes()));
            assert_eq!(std::str::from_utf8(&found).unwrap(), expected, "{frame:?}");
        }
        for same in
            ["event: m\nid: 7\ndata: a\ndata: b\n\n", ": hello\n\n", "id: 1\ndata\n\n", "\n"]
        {
            check(same, same);
        }
        check(" data: x\n\n", "");
        check("\u{feff}data: x\nid: 7\n\n", "id: 7\n\n");
        check("DATA: x\ndata: a\n\n", "data: a\n\n");
        check("id: 7\rdata: a\r\r", "id: 7\ndata: a\n\n");
        check(": hush\r\n\r\n", ": hush\n\n");
    }

    #[test]
    fn without_its_data_a_frame_is_a_place() {
        let place = |frame: &str| String::from_utf8(without_data(frame.as_bytes())).unwrap();
        assert_eq!(place("event: x\r\nid: 7\r\ndata: {}\r\n\r\n"), "id: 7\n\n");
        assert_eq!(place("event: x\ndata: {}\n\n"), "");
    }

    #[test]
    fn only_the_id_of_a_frame_is_another() {
        #[track_caller]
        fn check(frame: &str, expected: &str) {
            let found = with_ids(frame.as_bytes(), |id| format!("a.{id}"));
            assert_eq!(std::str::from_utf8(&found).unwrap(), expected);
        }
        check(
            "event: m\r\nid: 7\r\ndata: id: 7\r\n\r\n",
            "event: m\r\nid: a.7\r\ndata: id: 7\r\n\r\n",
        );
        check("id:7\nid:  8\n\n", "id:a.7\nid: a. 8\n\n");
        for same in ["id\ndata: x\n\n", "id:\ndata: x\n\n", "ids: 7\n\n", "data: x\n\n"] {
            check(same, same);
        }
    }

    #[test]
    fn a_frame_without_an_end_is_refused_at_the_limit() {
        let mut splitter = Splitter::new(10);
        splitter.push(b"data: 5678");
        assert_eq!(splitter.next_frame(), Ok(None));
        splitter.push(b"9");
        assert_eq!(splitter.next_frame(), Err(FrameTooLarge { limit: 10 }));
    }

    proptest! {
        /// However the stream is cut into chunks, the same data comes out, and every byte of it once.
        #[test]
        fn chunks_change_nothing(
            stream in "[da:\n\r ]{0,60}",
            cuts in proptest::collection::vec(0usize..60, 0..6),
        ) {
            let (whole, _) = frames(&[stream.as_bytes()]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream.as_bytes()[cut[0]..cut[1]]).collect();
            let (cut, rest) = frames(&chunks);
            let all_data = |frames: &[Bytes]| -> Vec<Vec<u8>> {
                frames.iter().filter_map(|frame| data(frame).map(Cow::into_owned)).collect()
            };
            prop_assert_eq!(all_data(&cut), all_data(&whole));
            let together: Vec<u8> = cut.iter().flatten().chain(&rest).copied().collect();
            prop_assert_eq!(together, stream.as_bytes());
        }
    }
}
