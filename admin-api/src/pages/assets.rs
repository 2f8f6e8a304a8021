//! Style, script and icon: ours, compiled in, under addresses that name their content and so never go stale.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

/// One file.
pub struct Asset {
    content: &'static str,
    kind: &'static str,
    /// Where it is served.
    pub address: String,
}

/// All of them.
pub struct Assets {
    pub style: Asset,
    pub script: Asset,
    pub icon: Asset,
}

/// All of them, with their addresses.
pub static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: Asset::new("page.css", "text/css; charset=utf-8", include_str!("../../assets/page.css")),
    script: Asset::new(
        "live.js",
        "text/javascript; charset=utf-8",
        include_str!("../../assets/live.js"),
    ),
    icon: Asset::new("icon.svg", "image/svg+xml", include_str!("../../assets/icon.svg")),
});

impl Asset {
    fn new(name: &str, kind: &'static str, content: &'static str) -> Self {
        let digest = hex::encode(&Sha256::digest(content.as_bytes())[..6]);
        Self { content, kind, address: format!("/assets/{digest}-{name}") }
    }
}

/// `GET /assets/{name}`.
pub async fn serve(Path(name): Path<String>) -> Response {
    let address = format!("/assets/{name}");
    let Assets { style, script, icon } = &*ASSETS;
    let Some(asset) = [style, script, icon].into_iter().find(|asset| asset.address == address)
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, asset.content).into_response()
}
