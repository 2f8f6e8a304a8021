//! `POST /admin/login-links`: a link that logs one browser in, once.

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use crate::{error::ApiError, router::App};

#[derive(Serialize)]
pub struct LoginLink {
    url: String,
}

/// `POST /admin/login-links`.
///
/// # Errors
/// As a problem.
pub async fn create(State(app): State<App>) -> Result<(StatusCode, Json<LoginLink>), ApiError> {
    let token = app.sessions.new_link().map_err(ApiError::bug)?;
    Ok((
        StatusCode::CREATED,
        Json(LoginLink { url: format!("{}/login?token={token}", app.public_url) }),
    ))
}
