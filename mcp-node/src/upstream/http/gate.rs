//! Answers that may deliver the result of a task: looked at before they go on, in one piece or frame by frame.

use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use mcp_node_core::{
    Refusal,
    sse::{self, Splitter},
};
use tokio::sync::mpsc;

use super::{
    super::{Asked, FRAMES, client},
    Answered, HttpUpstream, headers, is_events,
};
use crate::{
    clock,
    http::{RequestId, answer},
};

impl HttpUpstream {
    /// Hands the answer on once what it delivers is counted.
    pub(super) async fn gate(
        self,
        response: Response<Answered>,
        asked: Asked,
        id: RequestId,
    ) -> Result<Response, Refusal> {
        let events = is_events(&response);
        let (head, body) = response.into_parts();
        let mut answered = if events {
            let (sender, frames) = mpsc::channel(FRAMES);
            let stopping = self.shared.stopping.clone();
            let watched = self.gate_frames(body, asked, id, sender);
            tokio::spawn(async move { stopping.run_until_cancelled(watched).await });
            Response::new(client::body(frames))
        } else {
            let body = self.whole(body).await?;
            asked.count(&body).await?;
            Response::new(body.into())
        };
        *answered.status_mut() = head.status;
        headers::copy_back(&head.headers, answered.headers_mut());
        Ok(answered)
    }

    async fn gate_frames(
        self,
        body: Answered,
        asked: Asked,
        id: RequestId,
        client: mpsc::Sender<Bytes>,
    ) {
        let mut splitter = Splitter::new(self.shared.settings.max_answer_bytes);
        let mut chunks = body.into_data_stream();
        loop {
            let chunk = tokio::select! {
                chunk = chunks.next() => chunk,
                () = client.closed() => return,
            };
            let Some(Ok(chunk)) = chunk else { break };
            splitter.push(&chunk);
            loop {
                match splitter.next_frame() {
                    Ok(Some(frame)) => {
                        if !pass(frame, &asked, &id, &client).await {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return tracing::warn!(%error, "A stream of the upstream is cut"),
                }
            }
        }
        pass(splitter.rest(), &asked, &id, &client).await;
    }
}

/// Sends one frame once what it delivers is counted; `false` = go no further.
async fn pass(frame: Bytes, asked: &Asked, id: &RequestId, client: &mpsc::Sender<Bytes>) -> bool {
    if let Some(data) = sse::data(&frame)
        && let Err(refusal) = asked.count(&data).await
    {
        let error = answer::error(&refusal, Some(&id.raw), clock::wall());
        drop(client.send(answer::event(&error).into()).await); // It is gone, or has what it needs to know.
        return false;
    }
    frame.is_empty() || client.send(frame).await.is_ok()
}
