//! Hash tables whose keys are our own ids: a fast hash, with a fixed seed, since nobody else chooses them.

use foldhash::fast::FixedState;

pub(crate) type Map<K, V> = std::collections::HashMap<K, V, FixedState>;
pub(crate) type Set<K> = std::collections::HashSet<K, FixedState>;
