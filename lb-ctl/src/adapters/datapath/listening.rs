//! What changes in the tables while somebody listens: the program's news and our own, in one list.
//!
//! Whoever listens must not hear of a record before it hears of the slot by which that came about. So a slot is stored and noted under
//! the lock under which the program's news are taken in: what the program makes of the store is heard with it or later.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use aya::maps::{Map, MapData, RingBuf};
use lb_common::layout::{Changed, ClientKey, FlowKey, News};

use super::{DatapathError, mapped::MappedArray, pod::Raw};
use crate::core::sync::Changes;

/// The list, and whether anybody wants it.
pub(super) struct Listening {
    listens: AtomicBool,
    heard: Mutex<Heard>,
    /// How many news the program had no room for.
    lost: MappedArray<AtomicU32>,
}

struct Heard {
    changes: Changes,
    news: RingBuf<MapData>,
    /// How many were lost when we last looked.
    lost: u32,
}

impl Listening {
    /// Nobody listens yet. Of the maps that the program writes to, nobody else reads.
    pub(super) fn of(news: Map, lost: &Map) -> Result<Self, DatapathError> {
        Ok(Self {
            listens: AtomicBool::new(false),
            heard: Mutex::new(Heard {
                changes: Changes::default(),
                news: RingBuf::try_from(news)?,
                lost: 0,
            }),
            lost: MappedArray::of(lost, 1)?,
        })
    }

    /// From now on somebody listens, to whom all is new; or nobody does.
    pub(super) fn set(&self, listens: bool) {
        let mut heard = self.lock();
        // Before the list is taken for the first time: who deletes a record after that must find that somebody listens.
        self.listens.store(listens, Ordering::SeqCst);
        self.take_in(&mut heard);
        heard.changes = Changes::default();
        if listens {
            heard.changes.anything();
        }
    }

    /// Whether somebody listens.
    pub(super) fn listens(&self) -> bool {
        self.listens.load(Ordering::SeqCst)
    }

    /// How many news the program had no room for since it was loaded, modulo 2^32.
    pub(super) fn lost(&self) -> u32 {
        match self.lost.words() {
            [lost] => lost.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    /// Writes a slot, and notes it if that is a change.
    pub(super) fn write_slot<E>(
        &self,
        index: u32,
        write: impl FnOnce() -> Result<bool, E>,
    ) -> Result<bool, E> {
        if !self.listens() {
            return write();
        }
        let mut heard = self.lock();
        let changed = write()?;
        if changed {
            heard.changes.slot(index);
        }
        Ok(changed)
    }

    /// Notes that we have written or deleted the record of a flow.
    pub(super) fn flow(&self, key: FlowKey) {
        if self.listens() {
            self.lock().changes.flow(key);
        }
    }

    /// Notes that we have written or deleted what is noted of a client.
    pub(super) fn client(&self, key: ClientKey) {
        if self.listens() {
            self.lock().changes.client(key);
        }
    }

    /// Takes what has changed.
    pub(super) fn take(&self) -> Changes {
        let mut heard = self.lock();
        self.take_in(&mut heard);
        heard.changes.take()
    }

    /// Takes in the program's news.
    fn take_in(&self, heard: &mut Heard) {
        let Heard { changes, news, lost } = heard;
        while let Some(entry) = news.next() {
            let Some(&bytes) = entry.first_chunk::<{ size_of::<News>() }>() else {
                continue;
            };
            // SAFETY: as many bytes as it has, any of which are valid (`Pod`).
            let Raw(news) = unsafe { std::mem::transmute::<[u8; size_of::<News>()], Raw<News>>(bytes) };
            match news.changed() {
                Some(Changed::Flow(key)) => changes.flow(key),
                Some(Changed::Client(key)) => changes.client(key),
                None => {}
            }
        }
        let now = self.lost();
        if now != *lost {
            *lost = now;
            changes.anything();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        // Whatever a thread was doing when it panicked: no note is ever half written.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
