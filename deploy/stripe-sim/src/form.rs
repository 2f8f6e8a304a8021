//! Stripe's request encoding: form pairs whose names nest by brackets.
//!
//! `a[b]=1`, `a[0][b]=1` and `a[]=1` are read alike from the query and the body. The tree holds text only: types come from the
//! schema (`schema::coerce`). Absent on purpose: JSON bodies (API v2) and multipart uploads.

use crate::error::ApiError;
use serde_json::{Map, Value};

const DEPTH_LIMIT: usize = 12;
const PAIR_LIMIT: usize = 10_000;

/// One value of a request: text, or named parts in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Text(String),
    Parts(Branch),
}

/// Named parts. Elements of an array are named by their index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branch(pub Vec<(String, Node)>);

impl Branch {
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, node)| node)
    }

    /// True when every name is an index: the branch is an array.
    pub fn is_list(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(key, _)| key.parse::<usize>().is_ok())
    }

    /// The elements in the order of their indexes.
    pub fn elements(&self) -> Vec<&Node> {
        let mut rows: Vec<(usize, &Node)> =
            self.0.iter().map(|(key, node)| (key.parse().unwrap_or(usize::MAX), node)).collect();
        rows.sort_by_key(|(index, _)| *index);
        rows.into_iter().map(|(_, node)| node).collect()
    }

    /// The tree as JSON with text leaves, for the journal.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (key, node) in &self.0 {
            let value = match node {
                Node::Text(text) => Value::String(text.clone()),
                Node::Parts(branch) => branch.to_json(),
            };
            map.insert(key.clone(), value);
        }
        Value::Object(map)
    }

    fn slot(&mut self, name: &str) -> &mut Node {
        let at = self.0.iter().position(|(key, _)| key == name).unwrap_or_else(|| {
            self.0.push((name.to_owned(), Node::Parts(Self::default())));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// The name of the element that `[]` means: a new one, or the last one while it lacks what follows.
    fn element_name(&self, next: Option<&str>) -> String {
        if let (Some((last, Node::Parts(branch))), Some(next)) = (self.0.last(), next)
            && !next.is_empty()
            && branch.get(next).is_none()
        {
            return last.clone();
        }
        self.0.len().to_string()
    }

    fn insert(&mut self, path: &[&str], text: String, name: &str) -> Result<(), ApiError> {
        let Some((head, rest)) = path.split_first() else { return Ok(()) };
        let key = if head.is_empty() {
            self.element_name(rest.first().copied())
        } else {
            (*head).to_owned()
        };
        if rest.is_empty() {
            match self.slot(&key) {
                Node::Parts(branch) if !branch.0.is_empty() => return Err(conflict(name)),
                slot => *slot = Node::Text(text),
            }
            return Ok(());
        }
        match self.slot(&key) {
            Node::Text(_) => Err(conflict(name)),
            Node::Parts(branch) => branch.insert(rest, text, name),
        }
    }
}

fn conflict(name: &str) -> ApiError {
    ApiError::invalid(
        name,
        format!("Invalid parameter: `{name}` is given both as a value and as a hash."),
    )
}

/// Reads the pairs of the query string and of the body into one tree.
///
/// # Errors
/// 400 for names that nest past 12 levels, contradict each other, or are malformed.
pub fn parse(query: &str, body: &[u8]) -> Result<Branch, ApiError> {
    let mut root = Branch::default();
    let pairs = form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(body));
    for (count, (name, text)) in pairs.enumerate() {
        if count >= PAIR_LIMIT {
            return Err(ApiError::invalid("", "Too many parameters."));
        }
        let path = split(&name).ok_or_else(|| ApiError::unknown(&name))?;
        root.insert(&path, text.into_owned(), &name)?;
    }
    Ok(root)
}

/// A text that is equal for equal parameters in any order, for comparing idempotent requests.
pub fn fingerprint(root: &Branch) -> String {
    fn sorted(branch: &Branch) -> Vec<(&str, &Node)> {
        let mut parts: Vec<_> = branch.0.iter().map(|(key, node)| (key.as_str(), node)).collect();
        parts.sort_by_key(|(key, _)| *key);
        parts
    }
    fn write(branch: &Branch, out: &mut String) {
        out.push('{');
        for (key, node) in sorted(branch) {
            out.push_str(&Value::from(key).to_string());
            match node {
                Node::Text(text) => out.push_str(&Value::from(text.as_str()).to_string()),
                Node::Parts(branch) => write(branch, out),
            }
        }
        out.push('}');
    }
    let mut out = String::new();
    write(root, &mut out);
    out
}

/// `a[b][]` as `["a", "b", ""]`; `None` when the brackets do not fit.
fn split(name: &str) -> Option<Vec<&str>> {
    let Some((head, mut rest)) = name.split_once('[') else {
        return (!name.is_empty() && !name.contains(']')).then(|| vec![name]);
    };
    if head.is_empty() {
        return None;
    }
    let mut path = vec![head];
    loop {
        let (part, after) = rest.split_once(']')?;
        if part.contains('[') || path.len() >= DEPTH_LIMIT {
            return None;
        }
        path.push(part);
        match after.strip_prefix('[') {
            Some(more) => rest = more,
            None => return after.is_empty().then_some(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(body: &str, expect: &Value) {
        assert_eq!(&parse("", body.as_bytes()).unwrap().to_json(), expect, "{body}");
    }

    #[test]
    fn brackets_nest_and_arrays_come_in_three_spellings() {
        check("a[b][c]=1&a[b][d]=2&e=3", &json!({"a": {"b": {"c": "1", "d": "2"}}, "e": "3"}));
        check("a[1]=y&a[0]=x", &json!({"a": {"0": "x", "1": "y"}}));
        check("a[]=x&a[]=y", &json!({"a": {"0": "x", "1": "y"}}));
        check(
            "a[][p]=1&a[][q]=2&a[][p]=3",
            &json!({"a": {"0": {"p": "1", "q": "2"}, "1": {"p": "3"}}}),
        );
        check("a=%C3%A9+b&a=last", &json!({"a": "last"}));
    }

    #[test]
    fn elements_follow_their_indexes_not_their_order() {
        let root = parse("", b"a[10]=c&a[2]=b&a[1]=a").unwrap();
        let Some(Node::Parts(list)) = root.get("a") else { panic!("not a list") };
        assert!(list.is_list());
        let texts: Vec<_> = list.elements().into_iter().cloned().collect();
        assert_eq!(texts, ["a", "b", "c"].map(|text| Node::Text(text.to_owned())));
    }

    #[test]
    fn malformed_names_are_refused() {
        for body in
            ["a[b=1", "[a]=1", "a]=1", "a[b]c=1", "a=1&a[b]=2", "a[b]=1&a=2", "metadata[a[b]=1"]
        {
            assert!(parse("", body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn the_fingerprint_ignores_the_order_of_parameters_but_not_of_elements() {
        let of = |body: &str| fingerprint(&parse("", body.as_bytes()).unwrap());
        assert_eq!(of("a=1&b[c]=2&b[d]=3"), of("b[d]=3&a=1&b[c]=2"));
        assert_ne!(of("a[]=1&a[]=2"), of("a[]=2&a[]=1"));
        assert_ne!(of("a=1"), of("a=2"));
    }
}
