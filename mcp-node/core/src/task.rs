//! Tasks: calls whose result comes later, and when the delivery of one counts.
//!
//! The revision 2026-07-28 (extension `io.modelcontextprotocol/tasks`) answers `tasks/get` with the result inside the
//! task once it is completed, and may send the same as `notifications/tasks`; 2025-11-25 answers `tasks/result` with
//! the result itself. Absent on purpose: who made which task, and whether it was counted before (the shell knows).

use std::borrow::Cow;

use schemas::Outcome;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    billable,
    message::{self, Answer, Message},
    metering::ResultAt,
};

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

/// What a message has of a task's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing that counts.
    Nothing,
    /// The result of a task that succeeded; `task` = its id, if the message names it.
    Result { task: Option<String> },
    /// The task has failed, or its result says that its tool has. (An error says nothing: the request may be wrong.)
    Failed { task: Option<String> },
    /// It cannot be told what a client would read: it must not be delivered.
    Unclear,
}

/// What `message`, an answer to `method` or a notification on its stream, delivers of a task.
#[must_use]
pub fn delivery(method: &str, message: &[u8]) -> Delivery {
    let told_method = match message::read(message) {
        Ok(Message::Answer { answer: Answer::Error, .. }) => return Delivery::Nothing,
        Ok(Message::Answer { answer, .. }) if method == "tasks/result" => {
            return of_result(answer, None);
        }
        Ok(Message::Answer { .. }) => None,
        Ok(Message::Notification { method, .. }) => Some(method),
        Ok(Message::Request { .. }) => return Delivery::Nothing,
        Err(_) => return Delivery::Unclear,
    };
    let tells_of_tasks = told_method.is_none_or(|method| method.starts_with("notifications/tasks"));
    let unreadable = if tells_of_tasks { Delivery::Unclear } else { Delivery::Nothing };
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(message) else { return unreadable };
    let Some(told) = envelope.result.or(envelope.params) else { return Delivery::Nothing };
    let Ok(task) = serde_json::from_str::<Task<'_>>(told.get()) else { return unreadable };
    match (task.status.as_deref(), task.result) {
        (Some("completed"), Some(result)) => {
            of_result(message::result(result.get()), task.task_id.map(Cow::into_owned))
        }
        (Some("failed"), _) => Delivery::Failed { task: task.task_id.map(Cow::into_owned) },
        _ => Delivery::Nothing,
    }
}

fn of_result(answer: Answer<'_>, task: Option<String>) -> Delivery {
    match billable::outcome(answer) {
        Outcome::Success => Delivery::Result { task },
        Outcome::UpstreamError => Delivery::Unclear,
        Outcome::ToolError => Delivery::Failed { task },
        _ => Delivery::Nothing,
    }
}

/// Where in a message that delivers a task's result ([`delivery`]) that result lies.
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
            let found = delivery(method, answer.as_bytes());
            assert_eq!(matches!(found, Delivery::Result { .. }), expected, "{method} {result}");
            assert_ne!(found, Delivery::Unclear, "{method} {result}");
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
        assert_eq!(delivery("tasks/result", error), Delivery::Nothing);
        assert_eq!(delivery("tasks/get", error), Delivery::Nothing);
        let failed =
            br#"{"jsonrpc":"2.0","id":1,"result":{"taskId":"t","status":"failed","error":{}}}"#;
        assert_eq!(delivery("tasks/get", failed), Delivery::Failed { task: Some("t".into()) });
        let told = format!(r#"{{"jsonrpc":"2.0","method":"notifications/tasks","params":{done}}}"#);
        let found = delivery("subscriptions/listen", told.as_bytes());
        assert_eq!(found, Delivery::Result { task: Some("t".into()) });
    }

    #[test]
    fn what_a_client_may_read_in_another_way_is_unclear() {
        #[track_caller]
        fn check(method: &str, message: &str, expected: &Delivery) {
            assert_eq!(delivery(method, message.as_bytes()), *expected, "{method} {message}");
        }
        for unclear in [
            r#"{"jsonrpc":"2.0","id":1,"result":{"status":"working","status":"completed","result":{}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"status":"completed","result":{"a":NaN}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"status":"completed","result":"text"}}"#,
            r#"{"id":1,"result":{"status":"completed","result":{}}}"#,
        ] {
            check("tasks/get", unclear, &Delivery::Unclear);
        }
        check("tasks/result", r#"{"jsonrpc":"2.0","id":1,"result":7}"#, &Delivery::Unclear);
        let twice = r#"{"jsonrpc":"2.0","method":"notifications/tasks","params":{"status":"completed","result":{},"result":{}}}"#;
        check("subscriptions/listen", twice, &Delivery::Unclear);
        let other = r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"status":7}}"#;
        check("subscriptions/listen", other, &Delivery::Nothing);
    }
}
