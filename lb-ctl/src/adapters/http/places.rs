//! How many connections there may be at a time.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// In all.
const ALL: usize = 64;

/// From one address, so that a broken client does not keep the others out.
const EACH: usize = 8;

/// The connections that there are, by client.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<BTreeMap<IpAddr, usize>>);

/// One connection's place. Free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Places {
    /// A place for a connection from this address, if there is one.
    pub(super) fn take(places: &Arc<Self>, client: IpAddr) -> Option<Place> {
        places.change(|taken| {
            let free =
                taken.values().sum::<usize>() < ALL && taken.get(&client).is_none_or(|own| *own < EACH);
            free.then(|| {
                *taken.entry(client).or_default() += 1;
                Place {
                    places: Arc::clone(places),
                    client,
                }
            })
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<IpAddr, usize>) -> T) -> T {
        // No change can be interrupted half-way: whoever panicked was not in the midst of one.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.change(|taken| {
            if let Some(own) = taken.get_mut(&self.client) {
                *own -= 1;
                if *own == 0 {
                    taken.remove(&self.client);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_gets_some_and_all_get_no_more_than_there_are() {
        let places = Arc::new(Places::default());
        let client = |number: u8| IpAddr::from([10, 0, 0, number]);
        let mut taken: Vec<Place> = (0..EACH)
            .map(|_| Places::take(&places, client(1)).unwrap())
            .collect();
        assert!(Places::take(&places, client(1)).is_none());
        for number in 2.. {
            let more: Vec<Place> = std::iter::from_fn(|| Places::take(&places, client(number))).collect();
            if more.is_empty() {
                break;
            }
            taken.extend(more);
        }
        assert_eq!(taken.len(), ALL);
        assert!(Places::take(&places, client(200)).is_none());
        taken.pop();
        assert!(Places::take(&places, client(200)).is_some());
        drop(taken);
        assert!(places.0.lock().unwrap().is_empty());
    }
}
