//! Bills that were rated once are rated the same for ever, byte for byte.
//!
//! `golden/<case>.statement.json` is what a bill is computed from, `golden/<case>.bill.json` the bill as it is stored;
//! the plans are those under `plans/`. Both are only ever added: `TOLLBOOK_BLESS=1 cargo test -p billing-core` writes the
//! bills that are not there yet and never touches one that is.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // A test may look at its environment.

use std::path::{Path, PathBuf};

use billing_core::{
    invoice::{Bill, Statement, rate_bill},
    plan::{Book, Plan},
};

fn room(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The files of a folder whose name ends so, in the order of their names.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(room(folder)).unwrap().map(|file| file.unwrap().path());
    let mut found: Vec<PathBuf> =
        all.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
    found.sort();
    found
}

fn book() -> Book {
    let read = |path: PathBuf| Plan::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    Book::try_new(files("plans", ".json").into_iter().map(read)).unwrap()
}

/// Each case: the statement, and where its bill is.
fn cases() -> Vec<(Statement, PathBuf)> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let statement = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let bill = path.to_str().unwrap().replace(".statement.json", ".bill.json");
        (statement, PathBuf::from(bill))
    };
    files("golden", ".statement.json").into_iter().map(read).collect()
}

#[test]
fn frozen_bills_are_rated_the_same_for_ever() {
    let (book, cases) = (book(), cases());
    assert!(cases.len() >= 8, "{} cases", cases.len());
    for (statement, path) in cases {
        let bytes = rate_bill(&book, &statement).unwrap().canonical();
        if std::env::var("TOLLBOOK_BLESS").is_ok() && !path.exists() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let frozen = std::fs::read(&path).unwrap_or_else(|error| {
            panic!("{}: {error}; TOLLBOOK_BLESS=1 writes it", path.display())
        });
        let now = String::from_utf8(bytes).unwrap();
        assert_eq!(String::from_utf8(frozen).unwrap(), now, "{}", path.display());
    }
}

#[test]
fn a_frozen_bill_names_all_that_it_was_rated_from() {
    for (statement, path) in cases() {
        let bytes = std::fs::read(&path).unwrap();
        let bill: Bill = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(bill.canonical(), bytes, "{} is not canonical", path.display());
        assert_eq!((bill.engine, &bill.log), (statement.engine, &statement.log));
        for term in &bill.terms {
            let plan = &book().get(&term.plan).unwrap().digest.clone();
            assert_eq!(plan, &term.digest, "{}: the plan was changed", path.display());
        }
    }
}
