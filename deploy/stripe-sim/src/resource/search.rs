//! `GET /v1/{customers,products,prices,subscriptions,invoices}/search`: Stripe's query language over stored rows.
//!
//! `field:"value"`, `field~"part"`, `field>1`, `metadata["key"]:"value"`, `-` before a clause, `null`, and clauses joined all by `AND` or
//! all by `OR`. Texts compare without case. Here a change can be found at once; at Stripe after up to a minute.
//! Absent on purpose: rank, and every field that Stripe does not search by.

use super::{Answer, Call, render};
use crate::error::ApiError;
use crate::params::Params;
use crate::store::table::Table;
use serde_json::{Value, json};

const DEFAULT_LIMIT: i64 = 10;

/// `GET /v1/customers/search`.
pub fn customers(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let fields = ["created", "email", "metadata", "name", "phone"];
    search(call, &call.world.store.customers, "customers", &fields, params)
}

/// `GET /v1/products/search`.
pub fn products(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let fields = ["active", "description", "metadata", "name", "shippable", "url"];
    search(call, &call.world.store.products, "products", &fields, params)
}

/// `GET /v1/prices/search`.
pub fn prices(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let fields = ["active", "currency", "lookup_key", "metadata", "product", "type"];
    search(call, &call.world.store.prices, "prices", &fields, params)
}

/// `GET /v1/subscriptions/search`.
pub fn subscriptions(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let fields = ["canceled_at", "created", "metadata", "status"];
    search(call, &call.world.store.subscriptions, "subscriptions", &fields, params)
}

/// `GET /v1/invoices/search`.
pub fn invoices(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let fields = [
        "created",
        "currency",
        "customer",
        "metadata",
        "number",
        "status",
        "subscription",
        "total",
    ];
    search(call, &call.world.store.invoices, "invoices", &fields, params)
}

fn search(
    call: &Call<'_>,
    table: &Table,
    noun: &str,
    fields: &[&str],
    mut params: Params,
) -> Answer {
    let query = Query::parse(&params.required_text("query")?, fields)?;
    let limit = params.int("limit").unwrap_or(DEFAULT_LIMIT);
    let from = match params.text("page") {
        None => 0,
        Some(page) => page
            .parse::<usize>()
            .map_err(|_| ApiError::invalid("page", format!("Invalid page: {page}")))?,
    };
    params.finish()?;
    let limit = usize::try_from(limit).ok().filter(|limit| (1..=100).contains(limit));
    let limit = limit.ok_or_else(|| ApiError::invalid("limit", "`limit` is 1 to 100."))?;
    let found: Vec<&Value> = table
        .newest_first()
        .filter(|row| row["deleted"].is_null() && query.matches(row))
        .skip(from)
        .take(limit + 1)
        .collect();
    let has_more = found.len() > limit;
    let rows: Vec<Value> =
        found.into_iter().take(limit).map(|row| render(call.world, row)).collect();
    let next = has_more.then(|| (from + limit).to_string());
    Ok(json!({
        "object": "search_result", "url": format!("/v1/{noun}/search"), "has_more": has_more, "next_page": next, "data": rows,
    }))
}

/// Clauses, all of which must hold, or one.
struct Query {
    clauses: Vec<Clause>,
    needs_all: bool,
}

struct Clause {
    is_negated: bool,
    field: String,
    /// The key of `metadata[...]`.
    key: Option<String>,
    operator: String,
    /// None is `null`.
    value: Option<String>,
}

impl Query {
    fn parse(text: &str, fields: &[&str]) -> Result<Self, ApiError> {
        let (mut clauses, mut joint, mut rest) = (Vec::new(), None, text.trim());
        loop {
            let clause = Clause::parse(&mut rest).ok_or_else(|| unreadable(text))?;
            if !fields.contains(&clause.field.as_str()) {
                let message = format!(
                    "Field `{}` is an unsupported search field. Supported fields: {}.",
                    clause.field,
                    fields.join(", ")
                );
                return Err(ApiError::invalid("query", message));
            }
            clauses.push(clause);
            rest = rest.trim_start();
            if rest.is_empty() {
                return Ok(Self { clauses, needs_all: joint != Some(false) });
            }
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            let (needs_all, after) = match word.to_ascii_uppercase().as_str() {
                "AND" => (true, after),
                "OR" => (false, after),
                _ => (true, rest), // Two clauses side by side must both hold.
            };
            if joint.is_some_and(|joint| joint != needs_all) {
                let message = "`AND` and `OR` cannot stand in the same search query.";
                return Err(ApiError::invalid("query", message));
            }
            joint = Some(needs_all);
            rest = after.trim_start();
        }
    }

    fn matches(&self, row: &Value) -> bool {
        if self.needs_all {
            self.clauses.iter().all(|clause| clause.matches(row))
        } else {
            self.clauses.iter().any(|clause| clause.matches(row))
        }
    }
}

fn unreadable(text: &str) -> ApiError {
    ApiError::invalid("query", format!("We were unable to parse your search query: {text}"))
}

impl Clause {
    /// Reads one clause off the front of `rest`.
    fn parse(rest: &mut &str) -> Option<Self> {
        let mut text = *rest;
        let is_negated = text.starts_with('-');
        text = text.trim_start_matches('-');
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')?;
        let field = text[..end].to_owned();
        text = &text[end..];
        let key = match text.strip_prefix('[') {
            Some(inner) => {
                let (key, after) = quoted(inner)?;
                text = after.strip_prefix(']')?;
                Some(key)
            }
            None => None,
        };
        let operator =
            [">=", "<=", ":", "~", ">", "<"].into_iter().find(|one| text.starts_with(one))?;
        text = &text[operator.len()..];
        let value = if text.starts_with(['"', '\'']) {
            let (value, after) = quoted(text)?;
            text = after;
            Some(value)
        } else {
            let end = text.find(' ').unwrap_or(text.len());
            let (word, after) = text.split_at(end);
            text = after;
            (word != "null").then(|| word.to_owned())
        };
        *rest = text;
        (!field.is_empty()).then(|| Self {
            is_negated,
            field,
            key,
            operator: operator.to_owned(),
            value,
        })
    }

    fn matches(&self, row: &Value) -> bool {
        self.holds(row) != self.is_negated
    }

    fn holds(&self, row: &Value) -> bool {
        let held = match (&self.key, self.field.as_str()) {
            (Some(key), _) => &row[&self.field][key],
            (None, "subscription") => &row["parent"]["subscription_details"]["subscription"],
            (None, field) => &row[field],
        };
        let own = match held {
            Value::Null => return self.value.is_none(),
            Value::String(text) => text.to_lowercase(),
            other => other.to_string(),
        };
        let Some(value) = self.value.as_ref().map(|value| value.to_lowercase()) else {
            return false;
        };
        let order = own.parse::<i64>().ok().zip(value.parse::<i64>().ok()).map(|(a, b)| a.cmp(&b));
        match self.operator.as_str() {
            ":" => own == value,
            "~" => own.contains(&value),
            ">" => order.is_some_and(std::cmp::Ordering::is_gt),
            "<" => order.is_some_and(std::cmp::Ordering::is_lt),
            ">=" => order.is_some_and(std::cmp::Ordering::is_ge),
            _ => order.is_some_and(std::cmp::Ordering::is_le),
        }
    }
}

/// A quoted text with `\` before what is meant as it stands, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (mut value, mut is_escaped) = (String::new(), false);
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => {
                value.push(c);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            c if c == quote => return Some((value, &text[at + 1..])),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_find_what_they_say() {
        #[track_caller]
        fn check(text: &str, expect: Option<bool>) {
            let row = json!({
                "email": "Ann@Example.test", "created": 100, "name": "O'Hara", "phone": null, "metadata": { "org id": "7" },
            });
            let fields = ["email", "created", "name", "phone", "metadata"];
            let found = Query::parse(text, &fields).ok().map(|query| query.matches(&row));
            assert_eq!(found, expect, "{text}");
        }
        check("email:'ann@example.test'", Some(true));
        check("email:\"ann\"", Some(false));
        check("email~\"ann\"", Some(true));
        check("-email~\"ann\"", Some(false));
        check("created>99 AND created<=100", Some(true));
        check("created>100 OR name:'O\\'Hara'", Some(true));
        check("metadata[\"org id\"]:\"7\" created:100", Some(true));
        check("metadata['org id']:'8'", Some(false));
        check("phone:null", Some(true));
        check("-metadata['none']:null", Some(false));
        check("created>1 AND created<9 OR phone:null", None);
        check("balance:1", None);
        check("email", None);
        check("email:'open", None);
        check("", None);
    }
}
