//! When a part is ready: a question asked again and again until it is answered, refused or late.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::error::StackError;
use crate::http;

/// How long a part may take from its start until it serves.
pub(crate) const READY_BOUND: Duration = Duration::from_secs(120);
/// The pause between two questions.
pub(crate) const PAUSE: Duration = Duration::from_millis(15);

/// One answer to "do you serve?".
pub(crate) enum Probed {
    Ready,
    /// Why not; shown when the time is up.
    NotYet(String),
    /// It never will.
    Never(StackError),
}

/// Asks the process with the given pid once.
pub(crate) type Probe = Box<dyn Fn(u32) -> BoxFuture<'static, Probed> + Send + Sync>;

/// Ready when a GET of `url` has an answer that `good` accepts.
pub(crate) fn http_get(url: &str, good: fn(http::Status) -> bool) -> Probe {
    let url = url.to_owned();
    Box::new(move |_pid| {
        let url = url.clone();
        Box::pin(async move {
            match http::get(&url).await {
                Ok(answer) if good(answer.status) => Probed::Ready,
                Ok(answer) => Probed::NotYet(format!("GET {url} answers {}", answer.status)),
                Err(error) => Probed::NotYet(error.to_string()),
            }
        })
    })
}
