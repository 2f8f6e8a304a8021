//! Walks two streams that are sorted by the same key, side by side, in constant memory.

use futures::{TryStream, TryStreamExt};

/// Calls `visit` for every key of either stream, in order, with what each has. A key that a stream has several
/// times is met several times, pair by pair.
///
/// # Errors
/// The first error of either stream.
pub(super) async fn merge<K: Ord, V, W, E>(
    mut left: impl TryStream<Ok = (K, V), Error = E> + Unpin,
    mut right: impl TryStream<Ok = (K, W), Error = E> + Unpin,
    mut visit: impl FnMut(K, Option<V>, Option<W>),
) -> Result<(), E> {
    let (mut ours, mut theirs) = (left.try_next().await?, right.try_next().await?);
    loop {
        let (next_left, next_right) = match (ours.take(), theirs.take()) {
            (None, None) => return Ok(()),
            (Some((key, value)), None) => {
                visit(key, Some(value), None);
                (true, false)
            }
            (None, Some((key, value))) => {
                visit(key, None, Some(value));
                (false, true)
            }
            (Some((key, value)), Some((other, there))) if key < other => {
                visit(key, Some(value), None);
                theirs = Some((other, there));
                (true, false)
            }
            (Some((key, value)), Some((other, there))) if key > other => {
                visit(other, None, Some(there));
                ours = Some((key, value));
                (false, true)
            }
            (Some((key, value)), Some((_, there))) => {
                visit(key, Some(value), Some(there));
                (true, true)
            }
        };
        if next_left {
            ours = left.try_next().await?;
        }
        if next_right {
            theirs = right.try_next().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn every_key_of_either_side_is_met_once_a_pair() {
        let side = |keys: &[(u32, u32)]| {
            stream::iter(keys.iter().copied().map(Ok::<_, ()>).collect::<Vec<_>>())
        };
        let mut met = Vec::new();
        let left = side(&[(1, 10), (2, 20), (2, 21), (5, 50)]);
        let right = side(&[(0, 1), (2, 2), (5, 5), (7, 7)]);
        merge(left, right, |key, ours, theirs| met.push((key, ours, theirs))).await.unwrap();
        let expected = [
            (0, None, Some(1)),
            (1, Some(10), None),
            (2, Some(20), Some(2)),
            (2, Some(21), None),
            (5, Some(50), Some(5)),
            (7, None, Some(7)),
        ];
        assert_eq!(met, expected);
    }
}
