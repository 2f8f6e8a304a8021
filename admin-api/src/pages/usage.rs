//! `GET /` and `GET /live`: usage by hour and tool, whole or as the part that changes.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use schemas::{TenantId, Timestamp};
use serde::Deserialize;

use super::{
    assets::{ASSETS, Assets},
    html, login,
    range::{RANGES, Range},
    view::{Found, MAX_TOOLS, View, view},
};
use crate::{
    directory::{Directory, Tenant, page::PageOf},
    error::ApiError,
    router::App,
    routes::{extract::Params, now},
};

/// As many tenants are offered for choice.
const MAX_TENANTS: usize = 500;
/// How long a page that follows is left waiting for news. Unit: seconds.
const NEWS_S: u64 = 20;

#[derive(Debug, Deserialize)]
pub struct PageQuery {
    tenant: Option<String>,
    range: Option<String>,
    /// The sequence that the asking page shows.
    seen: Option<u64>,
}

#[derive(Template)]
#[template(path = "usage.html")]
struct UsagePage<'a> {
    assets: &'static Assets,
    tenants: Vec<Choice>,
    ranges: Vec<Choice>,
    content: Content<'a>,
}

/// The part that changes, as `/live` answers it.
#[derive(Template)]
#[template(path = "content.html")]
struct Content<'a> {
    /// The sequence that is shown.
    seen: u64,
    tenant: Option<&'a Tenant>,
    body: Body,
}

enum Body {
    NoTenant,
    Unavailable,
    Usage(Box<View>),
}

/// One of several, in a list or a row of links.
struct Choice {
    value: String,
    label: String,
    href: String,
    is_chosen: bool,
}

/// What an address asks for, as far as it exists.
struct Wanted {
    tenant: Option<Tenant>,
    tenants: Vec<Choice>,
    range: Range,
}

/// `GET /`.
pub async fn page(
    State(app): State<App>,
    headers: HeaderMap,
    Params(query): Params<PageQuery>,
) -> Response {
    if !app.sessions.is_open(&headers) {
        return login::ask();
    }
    let wanted = query.wanted(&app.control.directory());
    let (seen, body) = body(&app, &wanted).await;
    let status = if matches!(body, Body::Unavailable) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let Wanted { tenant, tenants, range } = wanted;
    let tenant_name = tenant.as_ref().map(|tenant| tenant.id.to_string()).unwrap_or_default();
    let ranges = RANGES.map(|each| Choice {
        value: each.name.to_owned(),
        label: each.label.to_owned(),
        href: format!("/?tenant={tenant_name}&range={}", each.name),
        is_chosen: each == range,
    });
    let content = Content { seen, tenant: tenant.as_ref(), body };
    html(status, &UsagePage { assets: &ASSETS, tenants, ranges: ranges.into(), content })
}

/// `GET /live`: the part that changes, once it has; 204 when it has not for a while.
pub async fn live(
    State(app): State<App>,
    headers: HeaderMap,
    Params(query): Params<PageQuery>,
) -> Response {
    if !app.sessions.is_open(&headers) {
        return ApiError::Unauthorized.into_response();
    }
    let news = app.live.moved(query.seen.unwrap_or(0), Duration::from_secs(NEWS_S));
    let has_moved = tokio::select! {
        has_moved = news => has_moved,
        () = app.stop.cancelled() => false,
    };
    if !has_moved {
        return StatusCode::NO_CONTENT.into_response();
    }
    let wanted = query.wanted(&app.control.directory());
    let (seen, body) = body(&app, &wanted).await;
    match body {
        Body::Unavailable => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        body => html(StatusCode::OK, &Content { seen, tenant: wanted.tenant.as_ref(), body }),
    }
}

impl PageQuery {
    fn wanted(&self, directory: &Directory) -> Wanted {
        let listed = directory.list_tenants(PageOf { after: 0, limit: MAX_TENANTS }).items;
        let asked = self.tenant.as_deref().and_then(|id| id.parse::<TenantId>().ok());
        let tenant = asked.and_then(|id| directory.tenant(id)).or_else(|| listed.last().copied());
        let range = RANGES
            .into_iter()
            .find(|range| Some(range.name) == self.range.as_deref())
            .unwrap_or(RANGES[0]);
        let beyond = tenant.filter(|tenant| listed.iter().all(|other| other.id != tenant.id));
        let choice = |each: &Tenant| Choice {
            value: each.id.to_string(),
            label: each.name.clone(),
            href: String::new(),
            is_chosen: tenant.is_some_and(|tenant| tenant.id == each.id),
        };
        let tenants = beyond.into_iter().chain(listed.iter().rev().copied()).map(choice).collect();
        Wanted { tenant: tenant.cloned(), tenants, range }
    }
}

async fn body(app: &App, wanted: &Wanted) -> (u64, Body) {
    let Some(tenant) = &wanted.tenant else { return (0, Body::NoTenant) };
    match find(app, tenant.id, wanted.range, now()).await {
        Ok(found) => {
            (found.as_of.map_or(0, |as_of| as_of.stream_seq), Body::Usage(Box::new(view(&found))))
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "Usage cannot be read");
            (0, Body::Unavailable)
        }
    }
}

async fn find(
    app: &App,
    tenant: TenantId,
    range: Range,
    now: Timestamp,
) -> Result<Found, clickhouse::error::Error> {
    let span = range.span(now);
    let as_of = app.usage.as_of().await?;
    let (stretches, tools, ledger, lag) = tokio::join!(
        app.usage.stretches(tenant, span, range.bar_hours),
        app.usage.tools(tenant, span, MAX_TOOLS + 1),
        app.ledger_count(tenant, span),
        app.lag(as_of),
    );
    Ok(Found { range, span, now, as_of, lag, stretches: stretches?, tools: tools?, ledger })
}
