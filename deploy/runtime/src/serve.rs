//! Serves an axum router until told to stop; requests that run may finish.

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Binds `listen` (`host:port`; port 0 takes a free one).
///
/// # Errors
/// When the address cannot be bound; the text names it.
pub async fn bind(listen: &str) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        std::io::Error::new(error.kind(), format!("cannot listen on {listen}: {error}"))
    })?;
    tracing::info!(address = %listener.local_addr()?, "Listening");
    Ok(listener)
}

/// Serves until `stop` is cancelled, then lets running requests end.
///
/// # Errors
/// When accepting connections fails for good.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}
