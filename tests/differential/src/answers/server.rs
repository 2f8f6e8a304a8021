//! The server of the answers' test: at `/old` it speaks 2025-11-25 with sessions, at `/plain` without, at `/new`
//! 2026-07-28. Everything but `tools/call` it answers well; a call it answers as its case says.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use super::{
    message::Asked,
    plan::Plan,
    script::{Script, Step, script},
};
use crate::{
    Failure,
    http::{Connection, Request, reset},
    lenient, well,
};

/// Between two pieces that are to arrive apart.
const APART: Duration = Duration::from_millis(1);
/// The longest that a connection stays on which nothing more comes.
const STALL: Duration = Duration::from_secs(20);
const EVENTS: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: open\n\n";

/// Both ends of a session's own stream; what comes before it is opened waits.
struct Listen {
    sender: UnboundedSender<Vec<u8>>,
    receiver: Option<UnboundedReceiver<Vec<u8>>>,
}

impl Default for Listen {
    fn default() -> Self {
        let (sender, receiver) = unbounded_channel();
        Self { sender, receiver: Some(receiver) }
    }
}

#[derive(Default)]
struct State {
    plans: HashMap<String, Plan>,
    listen: HashMap<String, Listen>,
    resume: HashMap<String, Vec<u8>>,
    sent: HashMap<String, Vec<u8>>,
    sessions: u64,
}

/// The running server.
#[derive(Clone)]
pub struct Server {
    state: Arc<Mutex<State>>,
    pub address: SocketAddr,
}

impl Server {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// There is none.
    pub async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = Self { state: Arc::default(), address };
        let own = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(own.clone().serve(stream));
            }
        });
        Ok(server)
    }

    /// From now on a call of `tool` is answered by a plan.
    pub fn plan(&self, tool: &str, plan: Plan) {
        self.state.lock().plans.insert(tool.to_owned(), plan);
    }

    /// Forgets a case; returns the bytes that it sent.
    pub fn forget(&self, tool: &str) -> Vec<u8> {
        let mut state = self.state.lock();
        state.plans.remove(tool);
        state.resume.remove(&format!("r-{tool}"));
        state.sent.remove(tool).unwrap_or_default()
    }

    async fn serve(self, stream: TcpStream) {
        let mut connection = Connection::new(stream);
        while let Some(request) = connection.next().await {
            let goes_on = match &*request.method {
                "POST" => self.post(&mut connection, &request).await,
                "GET" => return self.get(connection, &request).await,
                _ => connection.send_status("200 OK").await.map(|()| true),
            };
            match goes_on {
                Some(true) => {}
                Some(false) => return reset(connection.stream),
                None => return,
            }
        }
    }

    /// `Some(false)` = the connection is to be reset.
    async fn post(&self, connection: &mut Connection, request: &Request) -> Option<bool> {
        let message = match serde_json::from_slice::<Value>(&request.body) {
            Ok(message) => message,
            // An id that only some readers can read.
            Err(_) => match lenient::calls(&request.body, false).first() {
                Some(call) => {
                    json!({ "id": 0, "method": "tools/call", "params": { "name": call.tool } })
                }
                None => return connection.send_status("400 Bad Request").await.map(|()| true),
            },
        };
        let (id, method) = (&message["id"], message["method"].as_str());
        let Some(method) = method.filter(|_| !id.is_null()) else {
            return connection.send_status("202 Accepted").await.map(|()| true);
        };
        if method == "tools/call" {
            return self.call(connection, request, &message).await;
        }
        let mut headers = String::new();
        if method == "initialize" && request.path == "/old" {
            let mut state = self.state.lock();
            state.sessions += 1;
            let session = format!("session-{}", state.sessions);
            headers = format!("mcp-session-id: {session}\r\n");
            state.listen.insert(session, Listen::default());
        }
        let (status, body) = well::answer(&message, request.path == "/new");
        connection.send_json(status, &headers, &body).await.map(|()| true)
    }

    async fn call(
        &self,
        connection: &mut Connection,
        request: &Request,
        message: &Value,
    ) -> Option<bool> {
        let tool = message["params"]["name"].as_str().unwrap_or_default().to_owned();
        let (id, new) = (raw_id(&request.body), request.path == "/new");
        let plan = self.state.lock().plans.get(&tool).cloned();
        let Some(plan) = plan else {
            let body = well::call(&id);
            return connection.send_json("200 OK", "", &body).await.map(|()| true);
        };
        let Script { call, listen, resume } = script(&plan, &Asked { id, tool: tool.clone(), new });
        {
            let mut state = self.state.lock();
            let mut sent = Vec::new();
            for step in &call {
                match step {
                    Step::Bytes(bytes) => sent.extend(bytes),
                    other => sent.extend(format!("[{other:?}]").bytes()),
                }
            }
            if let Some(bytes) = &listen {
                sent.extend([b"\n[the session's stream:] ", &bytes[..]].concat());
            }
            if let Some((event, bytes)) = resume {
                sent.extend([b"\n[resumed:] ", &bytes[..]].concat());
                state.resume.insert(event, bytes);
            }
            state.sent.insert(tool, sent);
        }
        let mut goes_on = Some(true);
        for step in call {
            match step {
                Step::Bytes(bytes) => {
                    connection.send(&bytes).await?;
                    tokio::time::sleep(APART).await;
                }
                Step::End => goes_on = None,
                Step::Reset => goes_on = Some(false),
                Step::Stall => {
                    self.listen(request, listen.as_ref());
                    _ = tokio::time::timeout(STALL, connection.gone()).await; // Both mean: enough.
                    return None;
                }
            }
        }
        self.listen(request, listen.as_ref());
        goes_on
    }

    /// Sends bytes over the stream of the session that a request belongs to.
    fn listen(&self, request: &Request, bytes: Option<&Vec<u8>>) {
        let state = self.state.lock();
        let session = request.header("mcp-session-id").and_then(|id| state.listen.get(id));
        if let (Some(session), Some(bytes)) = (session, bytes) {
            drop(session.sender.send(bytes.clone())); // Nobody listens any more: nobody hears.
        }
    }

    async fn get(self, mut connection: Connection, request: &Request) {
        if let Some(event) = request.header("last-event-id") {
            let bytes = self.state.lock().resume.get(event).cloned();
            if let Some(bytes) = bytes
                && connection.send(EVENTS).await.is_some()
            {
                _ = connection.send(&bytes).await; // The end follows in any case.
                return;
            }
        }
        let session = request.header("mcp-session-id").unwrap_or_default().to_owned();
        let receiver =
            self.state.lock().listen.get_mut(&session).and_then(|listen| listen.receiver.take());
        let Some(mut receiver) = receiver else {
            _ = connection.send_status("405 Method Not Allowed").await; // It ends in any case.
            return;
        };
        if connection.send(EVENTS).await.is_some() {
            loop {
                let bytes = tokio::select! {
                    bytes = receiver.recv() => bytes,
                    () = connection.gone() => None,
                };
                let Some(bytes) = bytes else { break };
                if connection.send(&bytes).await.is_none() {
                    break;
                }
            }
        }
        if let Some(listen) = self.state.lock().listen.get_mut(&session) {
            listen.receiver = Some(receiver);
        }
    }
}

/// The id of a request as it was written.
fn raw_id(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct HasId<'a> {
        #[serde(borrow)]
        id: &'a serde_json::value::RawValue,
    }
    serde_json::from_slice::<HasId>(body)
        .map_or_else(|_| "0".to_owned(), |has| has.id.get().to_owned())
}
