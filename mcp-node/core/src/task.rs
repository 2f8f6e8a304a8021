//! Tasks: calls whose result comes later, and when the delivery of one counts.
//!
//! The revision 2026-07-28 (extension `io.modelcontextprotocol/tasks`) answers `tasks/get` with the result inside the
//! task once it is completed, and may send the same as `notifications/tasks`; 2025-11-25 answers `tasks/result` with
//! the result itself. Absent on purpose: who made which task, and whether it was counted before (the shell knows).

use std::borrow::Cow;

use schemas::Outcome;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{billable, message, metering::ResultAt};

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Task<'a> {
    #[serde(borrow)]
    task_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    task: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

/// Whether a request's answers can deliver the result of a task.
#[must_use]
pub fn may_deliver(method: &str) -> bool {
    matches!(method, "tasks/get" | "tasks/result" | "subscriptions/listen")
}

/// The id of the task that the answer to a call has made.
#[must_use]
pub fn created(answer: &[u8]) -> Option<String> {
    let envelope: Envelope<'_> = serde_json::from_slice(answer).ok()?;
    let task: Task<'_> = serde_json::from_str(envelope.result?.get()).ok()?;
    let inner = task.task.and_then(|task| serde_json::from_str::<Task<'_>>(task.get()).ok());
    task.task_id.or_else(|| inner?.task_id).map(Cow::into_owned)
}

/// Whether `message`, an answer to `method` or a notification, delivers the result of a task that succeeded. Holds the
/// id of the task if the message names it.
#[must_use]
pub fn delivers(method: &str, message: &[u8]) -> Option<Option<String>> {
    if method == "tasks/result" {
        return match message::read(message) {
            Ok(message::Message::Answer { answer, .. }) => {
                (billable::outcome(answer) == Outcome::Success).then_some(None)
            }
            _ => None,
        };
    }
    let envelope: Envelope<'_> = serde_json::from_slice(message).ok()?;
    let told = envelope.result.or(envelope.params)?;
    let task: Task<'_> = serde_json::from_str(told.get()).ok()?;
    let completed = task.status.as_deref() == Some("completed");
    let outcome = billable::outcome(message::result(task.result?.get()));
    (completed && outcome == Outcome::Success).then(|| task.task_id.map(Cow::into_owned))
}

/// Where in a message that [`delivers`] a task's result that result lies.
#[must_use]
pub fn result_at(method: &str, message: &[u8]) -> ResultAt {
    let envelope = serde_json::from_slice::<Envelope<'_>>(message);
    match envelope {
        _ if method == "tasks/result" => ResultAt::Answer,
        Ok(Envelope { result: None, .. }) => ResultAt::Told,
        _ => ResultAt::Task,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_lies_where_its_message_has_it() {
        let at = |method, message: &str| result_at(method, message.as_bytes());
        assert_eq!(at("tasks/result", r#"{"result":{}}"#), ResultAt::Answer);
        assert_eq!(at("tasks/get", r#"{"result":{"result":{}}}"#), ResultAt::Task);
        assert_eq!(at("subscriptions/listen", r#"{"params":{"result":{}}}"#), ResultAt::Told);
    }

    #[test]
    fn a_task_is_known_by_its_id_in_both_eras() {
        let made = |result: &str| {
            created(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#).as_bytes())
        };
        assert_eq!(made(r#"{"resultType":"task","taskId":"t"}"#).as_deref(), Some("t"));
        assert_eq!(
            made(r#"{"task":{"taskId":"t\u0041","status":"working"}}"#).as_deref(),
            Some("tA")
        );
        assert_eq!(made(r#"{"content":[]}"#), None);
    }

    #[test]
    fn only_the_result_of_a_task_that_succeeded_is_delivered() {
        #[track_caller]
        fn check(method: &str, result: &str, expected: bool) {
            let answer = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
            assert_eq!(
                delivers(method, answer.as_bytes()).is_some(),
                expected,
                "{method} {result}"
            );
        }
        let done = r#"{"taskId":"t","status":"completed","result":{"content":[]}}"#;
        check("tasks/get", done, true);
        check("tasks/get", r#"{"taskId":"t","status":"working"}"#, false);
        check("tasks/get", r#"{"taskId":"t","status":"completed"}"#, false);
        check(
            "tasks/get",
            r#"{"status":"completed","result":{"content":[],"isError":true}}"#,
            false,
        );
        check("tasks/get", r#"{"status":"failed","result":{"content":[]}}"#, false);
        check("tasks/get", r#"{"status":"input_required","inputRequests":{}}"#, false);
        check("tasks/result", r#"{"content":[]}"#, true);
        check("tasks/result", r#"{"content":[],"isError":true}"#, false);
        let error = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":""}}"#;
        assert_eq!(delivers("tasks/result", error), None);
        assert_eq!(delivers("tasks/get", error), None);
        let told = format!(r#"{{"jsonrpc":"2.0","method":"notifications/tasks","params":{done}}}"#);
        assert_eq!(delivers("subscriptions/listen", told.as_bytes()), Some(Some("t".into())));
    }
}
