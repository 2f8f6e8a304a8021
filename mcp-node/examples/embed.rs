//! An MCP server in Rust that meters itself: no gateway in front of it, the same keys, quotas and counts.
//!
//! `deploy/up` prints the address of NATS in its table and a key; then
//! `MCP_NATS_URL=nats://127.0.0.1:PORT cargo run -p mcp-node --example embed` serves http://127.0.0.1:8090/mcp.

use axum::Router;
use mcp_node::{Metered, Node, NodeSettings};
use rmcp::{
    tool, tool_router,
    transport::{
        StreamableHttpService, streamable_http_server::session::local::LocalSessionManager,
    },
};
use tower::Layer;

#[derive(Clone)]
struct Greeter;

#[tool_router(server_handler)]
impl Greeter {
    #[tool(description = "Greets whoever calls")]
    fn greet(&self) -> String {
        "hello".to_owned()
    }
}

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    runtime::telemetry::init("embed");
    let server = StreamableHttpService::new(
        || Ok(Greeter),
        LocalSessionManager::default().into(),
        <_>::default(),
    );

    // These are the lines that meter it.
    let url = std::env::var("MCP_NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    let nats = runtime::nats::connect(&url, "embed").await?;
    let node = Node::start(&NodeSettings::new("embed-spool"), &nats).await?;
    let app = Router::new().nest_service("/mcp", Metered::by(&node).layer(server));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:8090").await?;
    tracing::info!(address = %listener.local_addr()?, "Serving");
    let stop = runtime::shutdown::token()?;
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await?;

    // What was counted is on the log before the process ends.
    let (drain, flush) = (std::time::Duration::from_secs(5), std::time::Duration::from_secs(8));
    node.stop(drain, flush).await;
    Ok(())
}
