//! Publishing against the sequence that the subject's last message must have.
//!
//! A lost answer is `Unknown`: the message may be stored, even later, after a reconnect. The caller reads the
//! subject's last message and goes on from what it finds; the expected sequence makes a late twin harmless.

use async_nats::{
    HeaderMap,
    jetstream::{
        Context,
        context::PublishErrorKind,
        message::{PublishMessage, StreamMessage},
        stream::LastRawMessageErrorKind,
    },
};
use bytes::Bytes;

/// Why a message was not (or perhaps not) stored.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The subject's last message is another one. On a retry this can also mean: mine was stored before.
    #[error("another message came first")]
    WrongSequence,
    /// The message is larger than the stream or server takes. It was not stored.
    #[error("the message is too large")]
    TooLarge,
    /// Whether it was stored is not known.
    #[error("no certain answer")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Stores a message if the last one on its subject has the stream sequence `expected` (0 = there is none).
///
/// Returns the sequence it was stored at.
///
/// # Errors
/// See [`PublishError`].
pub async fn publish_expecting(
    jetstream: &Context,
    subject: String,
    headers: Option<HeaderMap>,
    payload: Bytes,
    expected: u64,
) -> Result<u64, PublishError> {
    let mut message = PublishMessage::build().payload(payload);
    if let Some(headers) = headers {
        message = message.headers(headers); // Before the expectation, which is a header too.
    }
    let message = message.expected_last_subject_sequence(expected);
    let sent = jetstream.send_publish(subject, message).await.map_err(classify)?;
    let stored = sent.await.map_err(classify)?;
    Ok(stored.sequence)
}

fn classify(error: async_nats::jetstream::context::PublishError) -> PublishError {
    match error.kind() {
        PublishErrorKind::WrongLastSequence => PublishError::WrongSequence,
        PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge,
        _ => PublishError::Unknown(Box::new(error)),
    }
}

/// The last message on a subject, as the stream's leader knows it; `None` = there is none.
///
/// # Errors
/// When the leader did not answer.
pub async fn last_on_subject(
    jetstream: &Context,
    stream: &str,
    subject: &str,
) -> Result<Option<StreamMessage>, PublishError> {
    let stream = jetstream
        .get_stream_no_info(stream)
        .await
        .map_err(|error| PublishError::Unknown(Box::new(error)))?;
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(PublishError::Unknown(Box::new(error))),
    }
}
