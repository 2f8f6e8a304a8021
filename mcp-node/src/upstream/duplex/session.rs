//! One session: one channel to a server, the requests that wait for it, and where its own messages go.
//!
//! Invariants: an answer goes to the request that it answers and nowhere else; a message of the server goes to one stream,
//! once: to the newest request that can take it, else to the session's own stream, else it waits (bounded) for one.
//! Absent on purpose: what is recorded (`call::Driver`).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use mcp_node_core::{
    Refusal, billable,
    message::{Answer, IdKey, Message, read},
    reply::{AnswerTo, ServerMessage, UnsolicitedMessage, classify, read_unasked},
    splice,
};
use parking_lot::Mutex;
use schemas::KeyId;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    sessions,
    upstream::{AnswerPiece, ID_IN_USE, breaker::BreakerPermit},
    wire::RequestId,
};

/// Messages of a server that wait for a stream. The oldest go first when there are more.
const MAX_WAITING: usize = 256;
/// Messages on their way to one stream before the server is read no further.
pub const QUEUE: usize = 64;

/// A request that waits for its answer.
struct Waiting {
    number: u64,
    raw_id: String,
    to: mpsc::Sender<AnswerPiece>,
    takes_messages: bool,
    deadline: Instant,
    /// Raised when the client does not want the answer any more.
    cancelled: CancellationToken,
}

/// What comes back for a request.
pub struct Pieces {
    pub pieces: mpsc::Receiver<AnswerPiece>,
    /// Raised when the client does not want the answer any more.
    pub cancelled: CancellationToken,
}

struct Routes {
    next: u64,
    waiting: HashMap<IdKey, Waiting>,
    stream: Option<mpsc::Sender<Bytes>>,
    backlog: VecDeque<Bytes>,
    used: Instant,
}

/// One session.
pub struct Session {
    pub id: String,
    pub key: KeyId,
    /// Lines to the server.
    input: mpsc::Sender<Bytes>,
    routes: Mutex<Routes>,
    /// Raised when the session is over.
    pub end: CancellationToken,
    /// Raised when its child must not be asked to end, but made to.
    pub at_once: CancellationToken,
    /// The child's process group; `None` = it has no child.
    pub group: Option<i32>,
    why: OnceLock<&'static str>,
    /// Whether a channel that was opened also answers.
    starting: Mutex<Option<BreakerPermit>>,
}

impl sessions::Session for Session {
    fn id(&self) -> &str {
        &self.id
    }

    fn key(&self) -> KeyId {
        self.key
    }

    fn is_alive(&self) -> bool {
        !self.end.is_cancelled()
    }

    fn is_in_use(&self) -> bool {
        let routes = self.routes.lock();
        let is_streaming = routes.stream.as_ref().is_some_and(|stream| !stream.is_closed());
        is_streaming || !routes.waiting.is_empty()
    }

    fn used(&self) -> Instant {
        self.routes.lock().used
    }

    fn touch(&self) {
        self.routes.lock().used = Instant::now();
    }
}

impl Session {
    pub fn new(
        id: String,
        key: KeyId,
        input: mpsc::Sender<Bytes>,
        group: Option<u32>,
        starting: BreakerPermit,
    ) -> Arc<Self> {
        let routes = Mutex::new(Routes {
            next: 0,
            waiting: HashMap::new(),
            stream: None,
            backlog: VecDeque::new(),
            used: Instant::now(),
        });
        let (end, at_once) = (CancellationToken::new(), CancellationToken::new());
        let group = group.and_then(|group| i32::try_from(group).ok());
        let (why, starting) = (OnceLock::new(), Mutex::new(Some(starting)));
        Arc::new(Self { id, key, input, routes, end, at_once, group, why, starting })
    }

    /// Ends the session; the first reason stays.
    pub fn close(&self, why: &'static str) {
        let _ = self.why.set(why); // It ends already.
        self.end.cancel();
    }

    /// Ends the session and its child without asking it.
    pub fn kill(&self, why: &'static str) {
        self.close(why);
        self.at_once.cancel();
    }

    /// Why it ended, if anybody said so.
    pub fn why(&self) -> Option<&'static str> {
        self.why.get().copied()
    }

    /// Whether its channel ended before anything was answered; what becomes of the next start is decided here.
    pub fn failed_to_start(&self) {
        if let Some(mut starting) = self.starting.lock().take() {
            starting.unreachable();
        }
    }

    /// Sends a message to the server. A line break in it can only stand between its parts, and becomes a space.
    ///
    /// # Errors
    /// The channel is gone.
    pub async fn write(&self, message: &[u8]) -> Result<(), Refusal> {
        let mut line: Vec<u8> = message
            .iter()
            .map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte })
            .collect();
        line.push(b'\n');
        self.routes.lock().used = Instant::now();
        self.input.send(line.into()).await.map_err(|_| Refusal::UpstreamUnreachable)
    }

    /// Whether a request with this id may be sent.
    ///
    /// # Errors
    /// One with this id is running.
    pub fn check_free(&self, id: &IdKey) -> Result<(), Refusal> {
        let running = self.routes.lock().waiting.contains_key(id);
        if running { Err(ID_IN_USE) } else { Ok(()) }
    }

    /// Sends a request and returns where its pieces arrive.
    ///
    /// # Errors
    /// A request with this id is running, or the channel is gone.
    pub async fn request(
        &self,
        id: &RequestId,
        message: &[u8],
        takes_messages: bool,
        deadline: Instant,
    ) -> Result<Pieces, Refusal> {
        let (to, pieces) = mpsc::channel(QUEUE);
        let cancelled = CancellationToken::new();
        {
            let mut routes = self.routes.lock();
            if routes.waiting.contains_key(&id.key) {
                return Err(ID_IN_USE);
            }
            routes.next += 1;
            let (number, raw_id) = (routes.next, id.raw.clone());
            let cancelled = cancelled.clone();
            let waiting = Waiting { number, raw_id, to, takes_messages, deadline, cancelled };
            routes.waiting.insert(id.key.clone(), waiting);
        }
        if self.end.is_cancelled() {
            self.fail_all(); // It ended before it could see this request.
        }
        if let Err(refusal) = self.write(message).await {
            self.fail(&id.key, &refusal);
        }
        Ok(Pieces { pieces, cancelled })
    }

    /// The client does not want an answer any more; the server has been told.
    pub fn cancel(&self, id: &IdKey) {
        if let Some(waiting) = self.routes.lock().waiting.get(id) {
            waiting.cancelled.cancel();
        }
    }

    /// Nobody waits for the answer any more; `tell` = the server is told so.
    pub fn give_up(&self, id: &IdKey, tell: bool) {
        let waiting = self.routes.lock().waiting.remove(id);
        if let Some(waiting) = waiting.filter(|_| tell) {
            self.tell_cancelled(&waiting.raw_id);
        }
    }

    fn tell_cancelled(&self, raw_id: &str) {
        let cancelled = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{raw_id}}}}}"#
        );
        // A server that does not read its input must not hold up the others.
        drop(self.input.try_send(format!("{cancelled}\n").into()));
    }

    fn fail(&self, id: &IdKey, refusal: &Refusal) {
        let waiting = self.routes.lock().waiting.remove(id);
        if let Some(waiting) = waiting {
            // Nobody may be listening; who does not read learns it from the closed channel.
            drop(waiting.to.try_send(AnswerPiece::Refused(refusal.clone())));
        }
    }

    /// The server will not answer a request.
    pub fn refuse(&self, id: &IdKey, refusal: &Refusal) {
        self.fail(id, refusal);
    }

    /// Takes one line of the server.
    pub async fn take_line(&self, line: Bytes) {
        match read_unasked(&line) {
            UnsolicitedMessage::Answer(id, answer) => {
                self.take_answer(&id, answer, line.clone()).await;
            }
            UnsolicitedMessage::Message if matches!(read(&line), Ok(Message::Answer { .. })) => {
                tracing::warn!("A server answered a request that it could not read");
            }
            UnsolicitedMessage::Message => self.route(line.clone()).await,
            UnsolicitedMessage::NoMessage | UnsolicitedMessage::Unclear => {
                if !self.take_respelled(&line).await {
                    metrics::counter!("mcp_stdio_lines_unreadable_total").increment(1);
                    tracing::debug!("A server wrote a line that is no message");
                }
            }
        }
    }

    async fn take_answer(&self, id: &IdKey, answer: Answer<'_>, line: Bytes) {
        if let Some(mut starting) = self.starting.lock().take() {
            starting.well();
        }
        let waiting = self.routes.lock().waiting.remove(id);
        match waiting {
            Some(waiting) => {
                let outcome = billable::outcome(answer);
                drop(waiting.to.send(AnswerPiece::Answer(line, outcome)).await); // It was given up.
            }
            None if self.take_respelled(&line).await => {}
            None => tracing::debug!("An answer came that nobody waits for"),
        }
    }

    /// Takes an answer whose id is spelled in another way than the request's: `"3"` for `3`.
    async fn take_respelled(&self, line: &Bytes) -> bool {
        let found = {
            let mut routes = self.routes.lock();
            let is_to = |id: &&IdKey| {
                let to = AnswerTo::CallRespelled;
                matches!(classify(line, id), ServerMessage::Answer { to: found, .. } if found == to)
            };
            let id = routes.waiting.keys().find(is_to).cloned();
            id.and_then(|id| Some((routes.waiting.remove(&id)?, id)))
        };
        let Some((waiting, id)) = found else { return false };
        let ServerMessage::Answer { answer, .. } = classify(line, &id) else { return false };
        let Some(respelled) = splice::with_id(line, &waiting.raw_id) else { return false };
        let outcome = billable::outcome(answer);
        drop(waiting.to.send(AnswerPiece::Answer(respelled.into(), outcome)).await); // It was given up.
        true
    }

    /// Finds a stream for a message of the server.
    async fn route(&self, mut message: Bytes) {
        loop {
            let (request, stream) = self.target();
            message = if let Some(request) = request {
                match request.send(AnswerPiece::Message(message)).await {
                    Ok(()) => return,
                    Err(mpsc::error::SendError(AnswerPiece::Message(message))) => message,
                    Err(_) => return,
                }
            } else if let Some(stream) = stream {
                match stream.send(message).await {
                    Ok(()) => return,
                    Err(mpsc::error::SendError(message)) => message,
                }
            } else {
                return self.keep(message);
            };
        }
    }

    fn target(&self) -> (Option<mpsc::Sender<AnswerPiece>>, Option<mpsc::Sender<Bytes>>) {
        let routes = self.routes.lock();
        let open = |waiting: &&Waiting| waiting.takes_messages && !waiting.to.is_closed();
        let newest = routes.waiting.values().filter(open).max_by_key(|waiting| waiting.number);
        let stream = routes.stream.as_ref().filter(|stream| !stream.is_closed());
        (newest.map(|waiting| waiting.to.clone()), stream.cloned())
    }

    fn keep(&self, message: Bytes) {
        let mut routes = self.routes.lock();
        if routes.backlog.len() == MAX_WAITING {
            routes.backlog.pop_front();
            metrics::counter!("mcp_stdio_messages_dropped_total").increment(1);
            tracing::warn!("A message of a server was dropped: no stream is open for it");
        }
        routes.backlog.push_back(message);
    }

    /// Opens the session's own stream, in the place of one before, and returns what has waited for it.
    pub fn open_stream(&self) -> (Vec<Bytes>, mpsc::Receiver<Bytes>) {
        let (sender, messages) = mpsc::channel(QUEUE);
        let mut routes = self.routes.lock();
        routes.stream = Some(sender);
        routes.used = Instant::now();
        (routes.backlog.drain(..).collect(), messages)
    }

    /// Ends requests that have waited too long; says whether the session has been idle for `idle`.
    pub fn sweep(&self, now: Instant, idle: std::time::Duration) -> bool {
        let late: Vec<(IdKey, String)> = {
            let routes = self.routes.lock();
            let late = routes.waiting.iter().filter(|(_, waiting)| waiting.deadline <= now);
            late.map(|(id, waiting)| (id.clone(), waiting.raw_id.clone())).collect()
        };
        for (id, raw_id) in late {
            self.fail(&id, &Refusal::UpstreamTimeout);
            self.tell_cancelled(&raw_id);
        }
        let mut routes = self.routes.lock();
        let streaming = routes.stream.as_ref().is_some_and(|stream| !stream.is_closed());
        if streaming || !routes.waiting.is_empty() {
            routes.used = now;
        }
        now.duration_since(routes.used) >= idle
    }

    /// The channel is gone: so is every answer.
    pub fn fail_all(&self) {
        let all = std::mem::take(&mut self.routes.lock().waiting);
        for waiting in all.into_values() {
            // The closed channel says the same.
            drop(waiting.to.try_send(AnswerPiece::Refused(Refusal::UpstreamUnreachable)));
        }
        self.routes.lock().stream = None;
    }
}
