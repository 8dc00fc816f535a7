//! Answers that are asked for once and kept.

use std::cell::OnceCell;

/// What a table has said, by key. Each key is asked for once; the answer stays where it is as long as the memo.
///
/// For what wants references into tables that can only be copied out of the kernel, and the same answer twice. A list, since one
/// packet asks each table for a few keys at most.
pub(super) struct Memo<K, V> {
    first: OnceCell<Box<Entry<K, V>>>,
}

struct Entry<K, V> {
    key: K,
    value: Option<V>,
    next: Memo<K, V>,
}

impl<K: PartialEq, V> Memo<K, V> {
    pub(super) const fn new() -> Self {
        Self {
            first: OnceCell::new(),
        }
    }

    /// What was said about `key`, or what `ask` says now.
    pub(super) fn get(&self, key: K, ask: impl FnOnce(&K) -> Option<V>) -> Option<&V> {
        let mut memo = self;
        while let Some(entry) = memo.first.get() {
            if entry.key == key {
                return entry.value.as_ref();
            }
            memo = &entry.next;
        }
        let value = ask(&key);
        let entry = memo.first.get_or_init(|| {
            Box::new(Entry {
                key,
                value,
                next: Self::new(),
            })
        });
        entry.value.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_asked_for_once() {
        let memo = Memo::new();
        let first = memo.get(1, |_| Some("one"));
        assert_eq!(memo.get(2, |_| None), None);
        assert_eq!(memo.get(1, |_| Some("another")), Some(&"one"));
        assert_eq!(memo.get(2, |_| Some("two")), None);
        assert_eq!(memo.get(3, |_| Some("three")), Some(&"three"));
        assert_eq!(first, Some(&"one"));
    }
}
