//! Calls that a server of the old era has begun and whose questions a client of the new era must answer first.
//!
//! The client gets the questions as a result (`input_required`) with a `requestState` that names the call here, and
//! asks again with the answers. The name cannot be guessed, and serves the key that was given it. Bounded in time:
//! a call whose client does not come back is given up, unrecorded beyond its first answer, and free.

use std::{collections::HashMap, sync::Arc, time::Duration};

use mcp_node_core::Refusal;
use parking_lot::Mutex;
use schemas::KeyId;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{messages::Members, pool::Pooled};
use crate::{upstream::AnswerPiece, wire::RequestId};

/// How long a client may take to answer.
const TIMEOUT: Duration = Duration::from_secs(600);

/// One call that waits.
pub struct PendingInput {
    pub key: KeyId,
    pub conversation: Pooled,
    pub pieces: mpsc::Receiver<AnswerPiece>,
    /// The call's id at the server.
    pub wire: RequestId,
    /// By what name the server tells of its progress, as it was written.
    pub token: Option<String>,
    pub questions: Vec<Question>,
}

/// What the server asked.
pub struct Question {
    /// The id of the server's request, as it was written.
    pub id: String,
    pub method: String,
    /// Its params, as they were written.
    pub params: String,
}

/// The calls that wait.
#[derive(Clone, Default)]
pub struct PendingInputs {
    calls: Arc<Mutex<HashMap<String, PendingInput>>>,
}

impl PendingInput {
    /// What the client is asked, as the members of an `input_required` result.
    pub fn request(&self, state: &str) -> Value {
        let requests = self.questions.iter().enumerate().map(|(number, question)| {
            let params = serde_json::from_str::<Value>(&question.params).unwrap_or_default();
            (number.to_string(), json!({ "method": question.method, "params": params }))
        });
        let requests: serde_json::Map<String, Value> = requests.collect();
        json!({ "resultType": "input_required", "inputRequests": requests, "requestState": state })
    }

    /// The answers to the server's requests, if the client gave all of them.
    pub fn answers(&self, responses: Option<&Members<'_>>) -> Option<Vec<String>> {
        let answer = |(number, question): (usize, &Question)| {
            let response = responses?.get(&number.to_string())?.get();
            let whole = response.starts_with('{');
            whole
                .then(|| format!(r#"{{"jsonrpc":"2.0","id":{},"result":{response}}}"#, question.id))
        };
        self.questions.iter().enumerate().map(answer).collect()
    }
}

impl PendingInputs {
    /// Keeps a call until its client comes back, and returns its name.
    ///
    /// # Errors
    /// The system has no randomness to name it by.
    pub fn park(&self, parked: PendingInput) -> Result<String, Refusal> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Refusal::UpstreamUnreachable)?;
        let name = format!("{:032x}", u128::from_be_bytes(random));
        self.put_back(name.clone(), parked);
        Ok(name)
    }

    /// Keeps a call that was taken, under its name.
    pub fn put_back(&self, name: String, parked: PendingInput) {
        self.calls.lock().insert(name.clone(), parked);
        let calls = Arc::downgrade(&self.calls);
        tokio::spawn(async move {
            tokio::time::sleep(TIMEOUT).await;
            drop(calls.upgrade().and_then(|calls| calls.lock().remove(&name)));
        });
    }

    /// The call of this name, if it is this key's.
    ///
    /// # Errors
    /// There is none: it was given up, or this node was started again.
    pub fn take(&self, name: &str, key: KeyId) -> Result<PendingInput, Refusal> {
        let mut calls = self.calls.lock();
        let own = calls.get(name).is_some_and(|parked| parked.key == key);
        let parked = if own { calls.remove(name) } else { None };
        parked.ok_or(Refusal::InvalidParams("This `requestState` is not known here: call anew."))
    }

    /// Gives up all calls.
    pub fn clear(&self) {
        self.calls.lock().clear();
    }
}
