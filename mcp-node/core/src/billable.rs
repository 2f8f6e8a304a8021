//! What is one billable call: how an answer to `tools/call` becomes an outcome, and what an outcome counts for.
//!
//! The table of outcomes stands in `mcp-node/README.md`. In doubt a call is free: an answer that is unclear, or of a
//! kind nobody knows yet, is free and shows as `upstream_error`. Absent on purpose: any method but `tools/call`, and
//! the results of tasks (their creation is told apart here).

use std::collections::BTreeMap;

use schemas::{MeterName, Outcome, Quantity};

use crate::message::{Answer, text};

/// How a call ended that was answered so.
#[must_use]
pub fn outcome(answer: Answer<'_>) -> Outcome {
    let (is_error, result_type, has_task, has_content) = match answer {
        Answer::Error => return Outcome::ProtocolError,
        Answer::Unclear => return Outcome::UpstreamError,
        Answer::Result { is_error, result_type, has_task, has_content } => {
            (is_error, result_type, has_task, has_content)
        }
    };
    match is_error {
        None | Some("false" | "null") => {}
        Some("true") => return Outcome::ToolError,
        Some(_) => return Outcome::UpstreamError,
    }
    match result_type.map(text) {
        // Before 2026-07-28 a task's creation was known by its `task` member alone.
        None if has_task && !has_content => Outcome::TaskCreated,
        None => Outcome::Success,
        Some(kind) => match kind.as_deref() {
            Some("complete") => Outcome::Success,
            // What asks for more has no content: who reads one takes it for the result.
            Some("input_required" | "task") if has_content => Outcome::UpstreamError,
            Some("input_required") => Outcome::InputRequired,
            Some("task") => Outcome::TaskCreated,
            _ => Outcome::UpstreamError,
        },
    }
}

/// As [`outcome`], for a client of the era with sessions: it knows no `resultType` and takes the result for a success
/// whatever stands there, so an answer that says anything but `complete` is unclear.
#[must_use]
pub fn outcome_with_sessions(answer: Answer<'_>) -> Outcome {
    match answer {
        Answer::Result { result_type: Some(kind), .. }
            if text(kind).as_deref() != Some("complete") =>
        {
            Outcome::UpstreamError
        }
        answer => outcome(answer),
    }
}

/// Whether the outcome counts as one call.
#[must_use]
pub fn is_billable(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Success => true,
        Outcome::ToolError
        | Outcome::ProtocolError
        | Outcome::InputRequired
        | Outcome::TaskCreated
        | Outcome::UpstreamError
        | Outcome::Timeout
        | Outcome::Cancelled => false,
    }
}

/// What the outcome counts for, by meter; empty = free.
#[must_use]
pub fn quantities(outcome: Outcome) -> BTreeMap<MeterName, Quantity> {
    if is_billable(outcome) {
        BTreeMap::from([(MeterName::tool_calls(), Quantity(1))])
    } else {
        BTreeMap::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, read};

    #[test]
    fn every_answer_has_its_outcome() {
        #[track_caller]
        fn check(members: &str, expected: Outcome, billable: bool) {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,{members}}}"#);
            let Ok(Message::Answer { answer, .. }) = read(text.as_bytes()) else {
                panic!("no answer: {text}")
            };
            assert_eq!(outcome(answer), expected, "{text}");
            assert_eq!(is_billable(expected), billable, "{text}");
            assert_eq!(!quantities(expected).is_empty(), billable, "{text}");
        }
        check(r#""result":{"content":[]}"#, Outcome::Success, true);
        check(r#""result":{}"#, Outcome::Success, true);
        check(r#""result":{"content":[],"isError":false}"#, Outcome::Success, true);
        check(r#""result":{"content":[],"isError":null}"#, Outcome::Success, true);
        check(r#""result":{"resultType":"complete","content":[]}"#, Outcome::Success, true);
        check(r#""result":{"resultType":"compl\u0065te","content":[]}"#, Outcome::Success, true);
        check(r#""result":{"content":[],"task":{}}"#, Outcome::Success, true);
        check(r#""result":{"content":[],"isError":true}"#, Outcome::ToolError, false);
        check(r#""result":{"resultType":"complete","isError":true}"#, Outcome::ToolError, false);
        check(r#""error":{"code":-32602,"message":"no"}"#, Outcome::ProtocolError, false);
        check(
            r#""result":{"resultType":"input_required","inputRequests":{}}"#,
            Outcome::InputRequired,
            false,
        );
        check(r#""result":{"resultType":"task","taskId":"t"}"#, Outcome::TaskCreated, false);
        check(
            r#""result":{"task":{"taskId":"t","status":"working"}}"#,
            Outcome::TaskCreated,
            false,
        );
        check(r#""result":{"resultType":"something_new"}"#, Outcome::UpstreamError, false);
        check(r#""result":{"resultType":7}"#, Outcome::UpstreamError, false);
        check(r#""result":{"resultType":null}"#, Outcome::UpstreamError, false);
        check(r#""result":{"isError":"true"}"#, Outcome::UpstreamError, false);
        check(r#""result":{"isError":true,"isError":false}"#, Outcome::UpstreamError, false);
        check(r#""result":"text""#, Outcome::UpstreamError, false);
        check(r#""result":null"#, Outcome::UpstreamError, false);
    }
}
