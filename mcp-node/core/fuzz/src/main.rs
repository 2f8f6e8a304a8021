//! `fuzz` under libFuzzer: `FUZZ_TARGET` names the reader; see `deploy/fuzz`.
#![no_main]
#![allow(unsafe_code, reason = "libFuzzer's macro writes the entry that its C++ calls")]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mcp_node_fuzz::{TARGETS, Target};

fn target() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("there is no target `{name}`")).1
    })
}

fuzz_target!(|bytes: &[u8]| target()(bytes));
