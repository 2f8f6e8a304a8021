//! The lists of several servers as one list.
//!
//! Entries stand in the order of the servers, each as its server wrote it, with the prefix before its name. Of two
//! with one name the first stays: a call of that name goes to its server. An entry whose name cannot be read for
//! certain does not stay.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
};

use serde_json::{Value, value::RawValue};

use super::{
    Unreadable,
    cursor::{self, Places},
    object::{Object, result},
};

/// The member of a result's `_meta` that names the servers whose entries are missing.
pub const MISSING: &str = "dev.tollbook/missing";

/// A method that lists, and what of its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    pub method: &'static str,
    /// The member of the result that holds the entries.
    entries: &'static str,
    /// The member of an entry that names it.
    by: &'static str,
    /// Its names get prefixes; the others are addresses and ids, which servers mean as they are.
    pub is_prefixed: bool,
}

const fn list(method: &'static str, entries: &'static str, by: &'static str) -> List {
    List { method, entries, by, is_prefixed: false }
}

pub const TOOLS: List = List { is_prefixed: true, ..list("tools/list", "tools", "name") };
pub const PROMPTS: List = List { is_prefixed: true, ..list("prompts/list", "prompts", "name") };
const LISTS: [List; 5] = [
    TOOLS,
    PROMPTS,
    list("resources/list", "resources", "uri"),
    list("resources/templates/list", "resourceTemplates", "uriTemplate"),
    list("tasks/list", "tasks", "taskId"),
];

impl List {
    /// The list that a method asks for.
    #[must_use]
    pub fn of(method: &str) -> Option<&'static Self> {
        LISTS.iter().find(|list| list.method == method)
    }
}

/// One answer of one server.
#[derive(Debug)]
pub struct Page<'a> {
    entries: Vec<Entry<'a>>,
    /// Where the server's list goes on.
    pub next: Option<String>,
    result: Object<'a>,
}

#[derive(Debug)]
struct Entry<'a> {
    text: &'a str,
    /// Behind the quote that its name begins with.
    name_at: usize,
    name: Cow<'a, str>,
}

/// Reads an answer to a list; `None` = it is an error.
///
/// # Errors
/// See [`Unreadable`].
pub fn page<'a>(message: &'a [u8], list: &List) -> Result<Option<Page<'a>>, Unreadable> {
    let Some(result) = result(message)? else { return Ok(None) };
    let all: Vec<&RawValue> = match result.raw(list.entries)? {
        Some(raw) => serde_json::from_str(raw).map_err(|_| Unreadable)?,
        None => vec![],
    };
    let entries = all.into_iter().filter_map(|entry| self::entry(entry.get(), list.by)).collect();
    let next = result.text("nextCursor")?.map(Cow::into_owned);
    Ok(Some(Page { entries, next, result }))
}

fn entry<'a>(text: &'a str, by: &str) -> Option<Entry<'a>> {
    let raw = Object::of(text)?.raw(by).ok()??;
    let name = crate::message::text(raw)?;
    let name_at = raw.as_ptr().addr() - text.as_ptr().addr() + 1;
    Some(Entry { text, name_at, name })
}

/// What one server has answered: one page, or several one after the other.
#[derive(Debug)]
pub struct Part<'a> {
    pub server: &'a str,
    pub prefix: &'a str,
    pub pages: Vec<Page<'a>>,
}

/// One list of all.
#[derive(Debug, PartialEq, Eq)]
pub struct Merged {
    /// The result, as JSON.
    pub result: String,
    /// What is in it: each name as clients see it, and the place of its server among the parts.
    pub offers: Vec<(String, usize)>,
    /// Names that a later server offers too, and the place of that server.
    pub clashes: Vec<(String, usize)>,
}

/// One list of all; `missing` = the servers that should be in it and are not.
#[must_use]
pub fn merged(list: &List, parts: &[Part<'_>], missing: &[&str]) -> Merged {
    let (mut offers, mut clashes, mut seen) = (vec![], vec![], HashSet::new());
    let mut entries: Vec<String> = vec![];
    for (at, part) in parts.iter().enumerate() {
        let prefix = if list.is_prefixed { part.prefix } else { "" };
        for entry in part.pages.iter().flat_map(|page| &page.entries) {
            let name = format!("{prefix}{}", entry.name);
            if seen.insert(name.clone()) {
                let (before, behind) = entry.text.split_at(entry.name_at);
                entries.push([before, prefix, behind].concat());
                offers.push((name, at));
            } else {
                clashes.push((name, at));
            }
        }
    }
    let mut result = format!(r#"{{"{}":[{}]"#, list.entries, entries.join(","));
    for (name, value) in besides(list, parts, missing) {
        result += &format!(",{}:{value}", Value::from(name));
    }
    result.push('}');
    Merged { result, offers, clashes }
}

/// The other members of the result.
fn besides(list: &List, parts: &[Part<'_>], missing: &[&str]) -> Vec<(String, String)> {
    let results = || parts.iter().flat_map(|part| part.pages.iter().map(|page| &page.result));
    let places: Places = parts
        .iter()
        .filter_map(|part| Some((part.server.to_owned(), part.pages.last()?.next.clone()?)))
        .collect();
    let said = |name: &str| results().any(|result| matches!(result.raw(name), Ok(Some(_))));
    let mut members = vec![];
    if let Some(cursor) = cursor::written(&places) {
        members.push(("nextCursor".to_owned(), Value::from(cursor).to_string()));
    }
    if said("ttlMs") {
        let ttl = |result: &Object<'_>| result.raw("ttlMs").ok()??.parse::<u64>().ok();
        let least = results().map(|result| ttl(result).unwrap_or(0)).min().unwrap_or(0);
        // Who is missing may be back at any moment.
        let least = if missing.is_empty() { least } else { 0 };
        members.push(("ttlMs".to_owned(), least.to_string()));
    }
    if said("cacheScope") {
        let public = |result: &Object<'_>| matches!(result.text("cacheScope"), Ok(Some(scope)) if scope == "public");
        let scope = if results().all(public) { "public" } else { "private" };
        members.push(("cacheScope".to_owned(), Value::from(scope).to_string()));
    }
    let mut meta =
        first_of(results().filter_map(|result| result.object("_meta").ok().flatten()), &[MISSING]);
    if !missing.is_empty() {
        meta.push((MISSING.to_owned(), Value::from(missing).to_string()));
    }
    if !meta.is_empty() {
        let inner = meta.iter().map(|(name, raw)| format!("{}:{raw}", Value::from(name.as_str())));
        members.push(("_meta".to_owned(), format!("{{{}}}", inner.collect::<Vec<_>>().join(","))));
    }
    let ours = [list.entries, "nextCursor", "ttlMs", "cacheScope", "_meta"];
    members.extend(first_of(results(), &ours));
    members
}

/// The members of several objects, but for `not`; of two with one name the first.
fn first_of<'a, O: std::borrow::Borrow<Object<'a>>>(
    objects: impl Iterator<Item = O>,
    not: &[&str],
) -> Vec<(String, String)> {
    let (mut seen, mut members) = (BTreeSet::new(), vec![]);
    for object in objects {
        for (name, raw) in object.borrow().iter().filter(|(name, _)| !not.contains(name)) {
            if seen.insert(name.to_owned()) {
                members.push((name.to_owned(), raw.to_owned()));
            }
        }
    }
    members
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
