use std::ffi::OsString;

use clap::{Arg, ArgAction, CommandFactory};

use super::*;
use crate::config::layers::PREFIX;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str =
    "<!-- Settings: `TOLLBOOK_BLESS=1 cargo test -p mcp-node --bins` writes this table. -->\n";
const END: &str = "<!-- End of the settings. -->\n";

fn settings() -> Vec<Arg> {
    let command = Settings::command();
    let named = command.get_arguments().filter(|arg| arg.get_long().is_some());
    named
        .filter(|arg| !["config", "help", "version"].contains(&arg.get_id().as_str()))
        .cloned()
        .collect()
}

/// A number of more than four digits with its thousands apart.
fn apart(text: &str) -> String {
    if text.len() < 5 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.to_owned();
    }
    let digits = text.as_bytes().rchunks(3).rev().map(|three| std::str::from_utf8(three).unwrap());
    digits.collect::<Vec<_>>().join(",")
}

fn table() -> String {
    let mut table = String::from(
        "| variable | flag | what it is (unit and range) | default |\n|---|---|---|---|\n",
    );
    for arg in settings() {
        let variable = format!("{PREFIX}{}", arg.get_id().as_str().to_uppercase());
        let flag = arg.get_long().unwrap();
        let help = arg.get_help().unwrap().to_string();
        let (help, unset) = help.split_once(" Unset: ").unwrap_or((&help, ""));
        let shown = if arg.is_hide_default_value_set() { &[] } else { arg.get_default_values() };
        let default = shown.iter().map(|value| format!("`{}`", apart(value.to_str().unwrap())));
        let default: String = default.chain([unset.to_owned()]).collect();
        let help = help.trim_end_matches('.').replace('|', "\\|");
        table += &format!("| `{variable}` | `--{flag}` | {help} | {default} |\n");
    }
    table
}

#[test]
fn the_readme_has_every_setting() {
    let readme = std::fs::read_to_string(README).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the README has a place for the settings");
    let (found, behind) = rest.split_once(END).expect("the settings have an end");
    if std::env::var("TOLLBOOK_BLESS").is_ok() {
        std::fs::write(README, format!("{before}{BEGIN}{}{END}{behind}", table())).unwrap();
        return;
    }
    assert!(found == table(), "the README's settings are stale: TOLLBOOK_BLESS=1 writes them");
}

/// Parses one setting as a flag.
fn is_taken(arg: &Arg, value: i128) -> bool {
    let flag: OsString = format!("--{}={value}", arg.get_long().unwrap()).into();
    Settings::try_parse_from(["mcp-node".into(), flag]).is_ok()
}

#[test]
fn a_range_that_is_told_is_the_range_that_holds() {
    let number = |text: &str| text.trim().replace(',', "").parse::<i128>().ok();
    let mut ranges = 0;
    let is_one = |arg: &Arg| !matches!(arg.get_action(), ArgAction::Append);
    for arg in settings().into_iter().filter(is_one) {
        let help = arg.get_help().unwrap().to_string();
        // `(ms, 100 to 600,000; ...)`
        let told = help.split(['(', ')', ';']).filter_map(|part| part.split_once(" to "));
        for (least, most) in told {
            let least = least.rsplit(", ").next().and_then(number);
            let most = number(most.split(", and").next().unwrap());
            let (Some(least), Some(most)) = (least, most) else { continue };
            let name = arg.get_id();
            assert!(is_taken(&arg, least) && is_taken(&arg, most), "{name}: {least} to {most}");
            assert!(!is_taken(&arg, least - 1) && !is_taken(&arg, most + 1), "{name}: beyond");
            ranges += 1;
        }
    }
    assert!(ranges > 20, "only {ranges} ranges were read: the test has lost its way");
}

#[test]
fn every_setting_is_told_in_a_sentence() {
    for arg in settings() {
        let help = arg.get_help().unwrap().to_string();
        assert!(help.starts_with(|c: char| c.is_ascii_uppercase()), "{}: {help}", arg.get_id());
        assert!(arg.get_value_names().is_some(), "{} has no name for its value", arg.get_id());
    }
}
