//! The direction of dependencies within the package: a module uses only modules that stand before it here.

use std::{collections::BTreeSet, fs, path::Path};

/// The modules of the library, from the ground up.
const FLOORS: [&str; 22] = [
    "clock",     // The time, and nothing else that is not known from what came.
    "labels",    // What every record and metric of a node says.
    "wire",      // What goes over the wire, whoever reads it.
    "spool",     // Records on disk, until the log has them.
    "publish",   // From the spool to the log.
    "keys",      // Every key, with its leases and its behaviour.
    "reach",     // Whether NATS and the ledger are there.
    "ask",       // Questions for leases.
    "traces",    // Spans.
    "meter",     // Admits a call, and settles it.
    "watch",     // What NATS tells the meter.
    "node",      // What a process holds of all these.
    "access",    // Who a caller is, and which tools it may see.
    "call",      // The one driver of a call, and what it needs.
    "request",   // What a client sent.
    "sessions",  // Each its key's; who has most makes room.
    "upstream",  // The ways to a server.
    "bridge",    // Between the eras of the protocol.
    "server",    // A server with its way and its bridge.
    "aggregate", // Several servers as one.
    "http",      // The door.
    "embed",     // The door within another server.
];

/// The modules that a source names behind `crate::`, in imports and elsewhere.
fn used(source: &str) -> BTreeSet<String> {
    let code: String =
        source.lines().flat_map(|line| [line.split("//").next().unwrap(), "\n"]).collect();
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.insert(name(rest));
            continue;
        };
        // The names at the first depth of the braces, each behind its comma.
        let (mut depth, mut is_first) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_first = true,
                c if is_first && !c.is_whitespace() => {
                    used.insert(name(&group[at..]));
                    is_first = false;
                }
                _ => {}
            }
        }
    }
    used
}

fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The top-level module that each source of the library belongs to, and its text.
fn sources(folder: &Path, module: Option<&str>, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let module = module.unwrap_or(stem);
        if path.is_dir() {
            sources(&path, Some(module), found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push((module.to_owned(), fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let mut found = Vec::new();
    sources(Path::new("src"), None, &mut found);
    // The program stands above the library.
    let of_program = ["lib", "main", "config", "servers", "reload"];
    found.retain(|(module, _)| !of_program.contains(&module.as_str()));
    let floor = |module: &str| FLOORS.iter().position(|known| *known == module);
    let mut seen = BTreeSet::new();
    for (module, source) in &found {
        let own =
            floor(module).unwrap_or_else(|| panic!("{module} has no floor: give it one here"));
        seen.insert(module.as_str());
        for used in used(source) {
            assert!(
                floor(&used).is_some_and(|floor| floor <= own),
                "{module} uses {used}, which does not stand below it"
            );
        }
    }
    assert_eq!(seen, FLOORS.into_iter().collect(), "a floor without a module");
}

#[test]
fn what_a_source_uses_is_found_in_every_spelling() {
    let source = "use crate::{\n    call::{Driver, End},\n    clock, // crate::not\n};\nfn f() { crate::wire::x() }";
    assert_eq!(used(source), ["call", "clock", "wire"].map(str::to_owned).into());
    assert_eq!(used("use crate::meter::{self, Permit};"), ["meter".to_owned()].into());
}
