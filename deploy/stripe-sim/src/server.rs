//! Listens, and serves each connection until it ends or a fault breaks it.
//!
//! A server of our own around axum's router, because a fault must be able to break a connection without an answer, which axum's
//! own server cannot do. Nothing outlives [`Server`]: dropping it ends the listener, all connections and all deliveries.

use crate::api;
use crate::api::reply::HangUp;
use crate::app::App;
use crate::config::Config;
use crate::control;
use crate::deliver::{self, Courier};
use crate::resource::{Origin, webhook_endpoint};
use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tower::ServiceExt;

/// A running simulator.
pub struct Server {
    address: SocketAddr,
    listener: JoinHandle<()>,
    courier: JoinHandle<()>,
    time: JoinHandle<()>,
}

impl Server {
    /// Binds and starts to serve.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(config: Config) -> std::io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let (courier, queue) = Courier::new();
        let app = Arc::new(App::new(config, format!("http://{address}"), courier));
        register_endpoint(&app);
        let router = Router::new()
            .nest("/_sim", control::router())
            .fallback(api::serve)
            .with_state(Arc::clone(&app));
        let courier = tokio::spawn(deliver::run(Arc::clone(&app), queue));
        let listener = tokio::spawn(accept(listener, router));
        let time = tokio::spawn(async move { app.tick().await });
        Ok(Self { address, listener, courier, time })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listener.abort();
        self.courier.abort();
        self.time.abort();
    }
}

fn register_endpoint(app: &App) {
    if let (Some(url), Some(secret)) = (&app.config.webhook_url, &app.config.webhook_secret) {
        app.act(Origin::default(), |call| webhook_endpoint::register(call, url, secret));
    }
}

async fn accept(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new(); // Dropped with this future, and the connections with it.
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, router.clone()))),
                Err(error) => {
                    // Out of file descriptors, most likely: later ones may be served.
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(error = &error as &dyn std::error::Error, "a connection task failed");
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let router = router.clone();
        async move {
            let Ok(response) = router.oneshot(request.map(Body::new)).await;
            match response.extensions().get::<HangUp>() {
                None => Ok(response),
                Some(how) => Err(Broken(*how)),
            }
        }
    });
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "cannot set TCP_NODELAY");
    }
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Errors here are broken connections, by order or by the client: both are part of the game.
    if let Err(error) = (&mut connection).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection broke");
        let broken = error.source().and_then(|source| source.downcast_ref::<Broken>());
        if matches!(broken, Some(Broken(HangUp::Reset))) {
            reset(&connection.into_parts().io.into_inner());
        }
    }
}

/// Without time to linger, closing a socket resets its connection.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot reset a connection");
    }
}

/// The answer was lost by order.
#[derive(Debug, thiserror::Error)]
#[error("the answer was lost by order")]
struct Broken(HangUp);
