//! Where settings come from: the file, then variables, then flags; the last to speak wins.
//!
//! What the file and the variables say is given to the parser of the flags, before the flags themselves, so each setting
//! has one type, one range and one default. What is a table is merged here. An empty variable says nothing.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::Path,
};

use clap::{CommandFactory, FromArgMatches};
use figment::{
    Figment, Profile, Provider,
    providers::{Env, Format, Toml},
    value::{Num, Value},
};
use serde::Deserialize;

use super::{ConfigError, Pairs, Settings, how_much, servers::UpstreamTable};

/// Variables of this program begin so.
pub const PREFIX: &str = "MCP_";
/// Keys that are tables in the file.
const TABLES: [&str; 5] = ["upstream", "meter", "weights", "tool_scopes", "upstream_headers"];
/// Settings of the command line alone.
const ONLY_FLAGS: [&str; 2] = ["config", "command"];
/// Variables that keep the names that operators know, without our prefix.
const OTHER_NAMES: [(&str, &str); 2] =
    [("TENANT_ID", "tenant_id"), ("ORGANIZATION_ID", "organization_id")];
/// What holds if nobody here says where spans go.
const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint");

/// The settings that are tables in the file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Tables {
    pub upstream: Vec<UpstreamTable>,
    pub meter: Vec<how_much::Meter>,
    pub weights: BTreeMap<String, u64>,
    pub tool_scopes: Pairs,
    pub upstream_headers: Pairs,
}

/// All that was said.
pub struct Layers {
    pub settings: Settings,
    pub tables: Tables,
    /// Variables that begin as ours do and mean nothing here: other programs around MCP have some.
    pub unknown_variables: Vec<String>,
}

/// Reads file, variables and the flags `args` (with the program's name before them).
///
/// # Errors
/// Names the first that is unknown, of the wrong type or out of its range, and where it was said.
pub fn read(args: &[OsString]) -> Result<Layers, ConfigError> {
    let said = parse("the command line", args.to_vec())?;
    let file = said.config.as_deref().map(of_file).transpose()?.unwrap_or_default();
    let (variables, unknown_variables) = of_variables();
    let collector = variable(COLLECTOR.0).map(|url| (COLLECTOR.1.to_owned(), url));
    let mut all = vec![args.first().cloned().unwrap_or_else(|| "mcp-node".into())];
    for (source, pairs) in [
        ("the environment", collector.into_iter().collect()),
        ("the file", file),
        ("the environment", variables),
    ] {
        for (key, text) in pairs {
            let flag = flag(&key, &text);
            parse(source, vec![all[0].clone(), flag.clone()]).map_err(|error| error.of(&key))?;
            all.push(flag);
        }
    }
    all.extend_from_slice(args.get(1..).unwrap_or_default());
    let settings = parse("the command line", all)?;
    let tables = tables(&settings)?;
    Ok(Layers { settings, tables, unknown_variables })
}

fn parse(source: &'static str, args: Vec<OsString>) -> Result<Settings, ConfigError> {
    let matches = Settings::command().try_get_matches_from(args);
    matches.and_then(|matches| Settings::from_arg_matches(&matches)).map_err(|error| {
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default();
        ConfigError::Setting(source, text.trim_start_matches("error: ").to_owned())
    })
}

/// A setting as it is said on the command line.
fn flag(key: &str, text: &str) -> OsString {
    let command = Settings::command();
    let long =
        command.get_arguments().find(|arg| arg.get_id() == key).and_then(|arg| arg.get_long());
    format!("--{}={text}", long.unwrap_or(key)).into()
}

/// Whether a setting may be said outside of the command line.
fn is_known(key: &str) -> bool {
    !ONLY_FLAGS.contains(&key) && Settings::command().get_arguments().any(|arg| arg.get_id() == key)
}

fn of_file(path: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let data = Toml::file_exact(path).data().map_err(ConfigError::of_figment)?;
    let keys = data.into_iter().filter(|(profile, _)| *profile == Profile::Default);
    let keys = keys.flat_map(|(_, keys)| keys).filter(|(key, _)| !TABLES.contains(&key.as_str()));
    keys.map(|(key, value)| {
        if !is_known(&key) {
            return Err(ConfigError::Setting("the file", format!("unknown setting `{key}`")));
        }
        let text = plain(&value).ok_or_else(|| {
            let why = format!("`{key}` must be a string, a number, or true or false");
            ConfigError::Setting("the file", why)
        })?;
        Ok((key, text))
    })
    .collect()
}

/// A plain value as it is written in a variable; `None` = it is none.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Char(_, c) => Some(c.to_string()),
        Value::Bool(_, on) => Some(on.to_string()),
        Value::Num(_, number) => Some(match number {
            Num::F32(number) => number.to_string(),
            Num::F64(number) => number.to_string(),
            whole => whole.to_i128().map_or_else(|| format!("{whole:?}"), |n| n.to_string()),
        }),
        Value::Empty(..) | Value::Dict(..) | Value::Array(..) => None,
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// What variables say, and those that mean nothing here.
fn of_variables() -> (Vec<(String, String)>, Vec<String>) {
    let (mut said, mut unknown) = (Vec::new(), Vec::new());
    let mut names: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
    names.sort();
    for name in names.iter().filter_map(|name| OsStr::to_str(name)) {
        let Some(key) = name.strip_prefix(PREFIX).map(str::to_lowercase) else { continue };
        if TABLES.contains(&key.as_str()) {
            continue;
        }
        match variable(name) {
            Some(text) if is_known(&key) => said.push((key, text)),
            None if is_known(&key) => {}
            _ => unknown.push(name.to_owned()),
        }
    }
    let others =
        OTHER_NAMES.iter().filter_map(|(name, key)| Some(((*key).to_owned(), variable(name)?)));
    said.extend(others);
    (said, unknown)
}

/// The tables of file and variables, with what flags say of them.
fn tables(settings: &Settings) -> Result<Tables, ConfigError> {
    let mut all = Figment::new();
    if let Some(file) = &settings.config {
        all = all.merge(Toml::file_exact(file));
    }
    let variables = Env::prefixed(PREFIX).only(&TABLES);
    let mut tables: Tables = all.merge(variables).extract().map_err(ConfigError::of_figment)?;
    if !settings.meter.is_empty() {
        let meters = settings.meter.iter().map(|text| how_much::meter(text));
        tables.meter = meters.collect::<Result<_, _>>()?;
    }
    for text in &settings.weights {
        let (tool, units) = how_much::weight(text)?;
        tables.weights.insert(tool, units);
    }
    if let Some(scopes) = &settings.tool_scopes {
        tables.tool_scopes = scopes.clone();
    }
    if let Some(headers) = &settings.upstream_headers {
        tables.upstream_headers = headers.clone();
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(file: &str, args: &[&str]) -> Result<Layers, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        std::fs::write(&path, file).unwrap();
        let config = [OsString::from("mcp-node"), "--config".into(), path.into()];
        read(&config.into_iter().chain(args.iter().map(OsString::from)).collect::<Vec<_>>())
    }

    #[test]
    fn flags_go_before_the_file_and_that_before_defaults() {
        let file =
            "max_sessions = 7\naggregate = true\nlog_level = \"warn\"\nweights = { a = 2 }\n";
        let Layers { settings, tables, .. } =
            read_with(file, &["--log-level", "debug", "--weight", "b=3"]).unwrap();
        assert_eq!((settings.max_sessions, settings.aggregate.0), (7, true));
        assert_eq!((settings.log_level, settings.max_connections), ("debug", 10_000));
        assert_eq!(tables.weights, [("a".to_owned(), 2), ("b".to_owned(), 3)].into());
        let off = read_with(file, &["--aggregate=off"]).unwrap();
        assert!(!off.settings.aggregate.0);
    }

    #[test]
    fn a_pair_keeps_its_commas_in_the_file() {
        let file = "[upstream_headers]\naccept-language = \"de, en\"\n";
        let headers = read_with(file, &[]).unwrap().tables.upstream_headers;
        assert_eq!(headers.0, [("accept-language".to_owned(), "de, en".to_owned())]);
        let said = read_with(file, &["--upstream-headers", "a=b"]).unwrap().tables.upstream_headers;
        assert_eq!(said.0, [("a".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_place() {
        #[track_caller]
        fn check(file: &str, args: &[&str], named: [&str; 2]) {
            let refused = read_with(file, args).err().expect("it is refused").to_string();
            assert!(named.iter().all(|part| refused.contains(part)), "{refused}");
        }
        check("max_sesions = 7", &[], ["the file", "max_sesions"]);
        check("max_sessions = 0", &[], ["the file", "--max-sessions"]);
        check("max_sessions = \"many\"", &[], ["the file", "many"]);
        check("max_sessions = [1]", &[], ["the file", "max_sessions"]);
        check("config = \"other.toml\"", &[], ["the file", "config"]);
        check("command = \"cat\"", &[], ["the file", "command"]);
        check("", &["--max-sessions", "0"], ["the command line", "--max-sessions"]);
        check("[[upstream]]\nname = \"a\"\nurk = 1\n", &[], ["settings", "urk"]);
        check("weights = { a = -1 }\n", &[], ["settings", "weights"]);
    }
}
