//! One case: who calls, over which way, and how the answer is written; all of it from a seed and a number.

use super::spellings::{AFTER, BEFORE, IDS, MEMBERS, RESULTS, Spelling, TEXTS};
use crate::random::Random;

/// Where a call goes: through all servers as one, or to a server of one kind.
pub const TARGETS: &[&str] = &["old", "plain", "new", "all"];
/// Which client calls: the official ones, and one of our own (`sloppy.rs`).
pub const CLIENTS: &[&str] = &["js1", "js2-sessions", "js2", "py-sessions", "py", "sloppy"];

const TYPES_JSON: &[&str] = &[
    "application/json",
    "application/json; charset=utf-8",
    "application/json;charset=iso-8859-1",
    "application/json; charset=utf-16",
    "APPLICATION/JSON",
    "application/vnd.mcp+json",
    "application/json, text/event-stream",
    "text/plain",
    "text/event-stream",
    "",
];
const TYPES_EVENTS: &[&str] = &[
    "text/event-stream",
    "text/event-stream; charset=utf-8",
    "text/event-stream;charset=iso-8859-1",
    "TEXT/Event-Stream",
    "text/event-stream, application/json",
    "text/event-stream-x",
    "application/json",
    "text/plain",
    "",
];
const CODINGS: &[&str] = &[
    "identity",
    "identity_told",
    "gzip",
    "gzip_upper",
    "x-gzip",
    "gzip_untold",
    "gzip_told_only",
    "deflate",
    "br_told_only",
    "gzip_twice",
    "empty_told",
];
const ENDINGS: &[&str] = &["lf", "crlf", "cr", "mixed", "lf_crlf"];
const EVENTS: &[&str] = &[
    "plain",
    "message",
    "other",
    "empty_type",
    "error_type",
    "no_space",
    "two_spaces",
    "tab",
    "with_id",
    "with_id_behind",
    "with_id_nul",
    "retry",
    "retry_words",
    "comment_inside",
    "several_lines",
    "empty_line_before",
    "data_word_last",
    "unknown_field",
    "space_before_name",
    "upper_name",
    "bom_start",
    "bom_event",
    "long_comment",
    "type_twice",
    "no_data",
];
const TAILS: &[&str] =
    &["plain", "one_line_end", "no_line_end", "comment", "cr_only", "more_blank"];
const STATUSES: &[&str] = &[
    "200",
    "201",
    "202",
    "203",
    "204",
    "205",
    "206",
    "226",
    "299",
    "100+200",
    "103+200",
    "304",
    "307",
    "400",
    "401",
    "403",
    "404",
    "405",
    "409",
    "410",
    "429",
    "500",
    "502",
    "503",
    "599",
    "http10",
    "no_reason",
];
const TRANSFERS: &[&str] = &[
    "plain",
    "length",
    "chunked",
    "chunked_small",
    "chunk_extension",
    "trailers",
    "until_close",
    "length_too_long",
    "length_too_short",
    "length_twice",
    "length_and_chunked",
    "chunk_size_zeros",
    "lf_heads",
];
const ROUTES: &[&str] = &[
    "post",
    "listen_202",
    "listen_empty",
    "listen_held",
    "listen_both",
    "resume",
    "resume_within",
    "resume_both",
];
const PIECES: &[&str] = &["one", "each_byte", "two", "two_near_end", "many"];
const CUTS: &[&str] = &["none", "end", "reset", "stall", "end_near_end", "reset_near_end"];

/// What of an answer may be other than plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Field {
    Id,
    Members,
    Result,
    Text,
    Type,
    Coding,
    Ending,
    Event,
    Tail,
    Status,
    Transfer,
    Before,
    After,
    Route,
    Pieces,
    Cut,
}

use Field::{
    After, Before, Coding, Cut, Ending, Event, Id, Members, Pieces, Result, Route, Status, Tail,
    Text, Transfer, Type,
};

/// Fields, with how often each is taken.
const OF_JSON: &[Field] = &[
    Id, Id, Id, Members, Members, Members, Result, Result, Result, Text, Text, Type, Coding,
    Status, Status, Transfer, Pieces, Cut, Cut,
];
const OF_EVENTS: &[Field] = &[
    Id, Id, Id, Members, Members, Members, Result, Result, Result, Text, Text, Type, Coding,
    Ending, Ending, Event, Event, Event, Tail, Tail, Status, Transfer, Before, Before, After,
    After, Route, Route, Pieces, Cut, Cut,
];

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub client: &'static str,
    pub target: &'static str,
    /// As events; else in one piece of JSON.
    pub events: bool,
    choices: [usize; 16],
    /// Where pieces and cuts fall.
    pub position: u64,
}

impl Plan {
    /// The case of a seed and a number.
    #[must_use]
    pub fn generate(seed: u64, case: u64) -> Self {
        let mut random = Random::for_case(seed, 1, case);
        let (client, target) = (*random.pick(CLIENTS), *random.pick(TARGETS));
        let events = random.chance(60);
        let mut plan = Self { client, target, events, choices: [0; 16], position: 0 };
        let how_many = match random.below(100) {
            0..3 => 0,
            3..50 => 1,
            50..85 => 2,
            _ => 3,
        };
        for _ in 0..how_many {
            let field = *random.pick(if events { OF_EVENTS } else { OF_JSON });
            plan.choices[field as usize] = 1 + random.index(plan.ways(field) - 1);
        }
        plan.position = random.below(1 << 40);
        plan
    }

    fn ways(&self, field: Field) -> usize {
        match field {
            Id => IDS.len(),
            Members => MEMBERS.len(),
            Result => RESULTS.len(),
            Text => TEXTS.len(),
            Before => BEFORE.len(),
            After => AFTER.len(),
            other => self.names(other).len(),
        }
    }

    fn names(&self, field: Field) -> &'static [&'static str] {
        match field {
            Type if self.events => TYPES_EVENTS,
            Type => TYPES_JSON,
            Coding => CODINGS,
            Ending => ENDINGS,
            Event => EVENTS,
            Tail => TAILS,
            Status => STATUSES,
            Transfer => TRANSFERS,
            Route => ROUTES,
            Pieces => PIECES,
            Cut => CUTS,
            _ => &[],
        }
    }

    fn spellings(field: Field) -> &'static [Spelling] {
        match field {
            Id => IDS,
            Members => MEMBERS,
            Result => RESULTS,
            Text => TEXTS,
            Before => BEFORE,
            After => AFTER,
            _ => &[],
        }
    }

    /// The name of the way that was taken.
    #[must_use]
    pub fn way(&self, field: Field) -> &'static str {
        let choice = self.choices[field as usize];
        match Self::spellings(field) {
            [] => self.names(field)[choice],
            spellings => spellings[choice].0,
        }
    }

    /// The text of the way that was taken, where it is one.
    #[must_use]
    pub fn text(&self, field: Field) -> &'static str {
        Self::spellings(field).get(self.choices[field as usize]).map_or("", |spelling| spelling.1)
    }

    /// The same case with one field fewer that is not plain, in all ways.
    #[must_use]
    pub fn simpler(&self) -> Vec<Self> {
        let set = (0..self.choices.len()).filter(|field| self.choices[*field] != 0);
        set.map(|field| {
            let mut simpler = self.clone();
            simpler.choices[field] = 0;
            simpler
        })
        .collect()
    }
}

impl Plan {
    /// Whether all that is not plain in `simpler` is so here too.
    #[must_use]
    pub fn holds(&self, simpler: &Self) -> bool {
        let mut pairs = simpler.choices.iter().zip(&self.choices);
        pairs.all(|(simpler, own)| *simpler == 0 || simpler == own)
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} at {}, {}",
            self.client,
            self.target,
            if self.events { "events" } else { "JSON" }
        )?;
        let all = [
            Id, Members, Result, Text, Type, Coding, Ending, Event, Tail, Status, Transfer, Before,
            After, Route, Pieces, Cut,
        ];
        for field in all.into_iter().filter(|field| self.choices[*field as usize] != 0) {
            write!(f, ", {field:?}={:?}", self.way(field))?;
        }
        Ok(())
    }
}
