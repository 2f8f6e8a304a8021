//! Logging a browser in by a link, and out.

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    assets::{ASSETS, Assets},
    html,
};
use crate::{error::ApiError, router::App, routes::extract::Params};

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    assets: &'static Assets,
    /// Where the browser goes by itself; empty = it stays.
    go_to: &'static str,
    title: &'static str,
    text: &'static str,
    /// Whether to say how a link is had.
    tells_how: bool,
}

#[derive(Deserialize)]
pub struct LoginQuery {
    #[serde(default)]
    token: String,
}

/// `GET /login?token=`: takes the token and goes on to the page.
///
/// Not by a redirect: that would still be a step from the site that had the link, and the new cookie would not be
/// sent with it. The page that is answered makes the next step itself.
pub async fn enter(
    State(app): State<App>,
    method: Method,
    headers: HeaderMap,
    Params(query): Params<LoginQuery>,
) -> Response {
    if method != Method::GET {
        return StatusCode::NO_CONTENT.into_response(); // Looking at a link does not use it.
    }
    match app.sessions.log_in(&query.token) {
        Ok(Some(cookie)) => {
            let (title, text) = ("Signed in", "Opening your usage.");
            let page = LoginPage { assets: &ASSETS, go_to: "/", title, text, tells_how: false };
            ([(header::SET_COOKIE, cookie)], html(StatusCode::OK, &page)).into_response()
        }
        Ok(None) if app.sessions.is_open(&headers) => Redirect::to("/").into_response(),
        Ok(None) => {
            let text = "A sign-in link works once, for ten minutes. Ask for another one.";
            let page = LoginPage {
                assets: &ASSETS,
                go_to: "",
                title: "This link is used up",
                text,
                tells_how: true,
            };
            html(StatusCode::GONE, &page)
        }
        Err(error) => ApiError::bug(error).into_response(),
    }
}

/// `POST /logout`.
pub async fn leave(State(app): State<App>, headers: HeaderMap) -> Response {
    let cookie = app.sessions.log_out(&headers);
    ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

/// What a browser sees that is not logged in.
pub fn ask() -> Response {
    let text = "Usage is shown to people who hold a sign-in link from an operator.";
    let page = LoginPage { assets: &ASSETS, go_to: "", title: "Sign in", text, tells_how: true };
    html(StatusCode::UNAUTHORIZED, &page)
}
