//! Every seed, and mutations of it that are the same in each run.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path};

use mcp_node_fuzz::TARGETS;

/// Mutations of each seed.
const MUTATIONS: u64 = 3_000;

/// The finalizer of SplitMix64 over a counter.
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below.max(1) as u64).unwrap()
    }
}

/// Some bytes changed, doubled, dropped, or taken from another seed.
fn mutated(seed: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    const TOKENS: [&[u8]; 8] =
        [b"\"", b"\\u0000", b"{", b"}", b"\n\n", b"\r", b"\"id\":1,", b"\xff\xfe"];
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.next(4) {
        let at = dice.next(bytes.len() + 1);
        let end = (at + dice.next(16)).min(bytes.len());
        match dice.next(6) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, TOKENS[dice.next(TOKENS.len())].iter().copied())),
            2 if at < bytes.len() => bytes[at] ^= 1 << dice.next(8),
            3 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            4 => {
                let from = dice.next(other.len() + 1);
                let to = (from + dice.next(64)).min(other.len());
                drop(bytes.splice(at..at, other[from..to].to_vec()));
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn every_claim_holds_of_every_seed_and_of_what_is_like_it() {
    for (name, check) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        let mut seeds: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        seeds.sort();
        let seeds: Vec<Vec<u8>> = seeds.iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(seeds.len() >= 5, "{name} has {} seeds", seeds.len());
        let mut dice = Dice(7);
        for seed in &seeds {
            check(seed);
            for _ in 0..MUTATIONS {
                let other = &seeds[dice.next(seeds.len())];
                check(&mutated(seed, other, &mut dice));
            }
        }
    }
}
