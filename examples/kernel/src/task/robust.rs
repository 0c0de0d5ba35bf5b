//! The futexes that a thread still holds when it ends or execs: set_robust_list(2).
//!
//! ```text
//!  head ─► entry ─► entry ─► … ─► head        in the program's memory, each a pointer to the next
//!            └ futex, `offset` bytes from it
//! ```
//!
//! A futex whose owner is the thread gets `FUTEX_OWNER_DIED`, and one who waits for it is woken. The
//! list is the program's: it may be broken, or endless, and the walk ends there.

use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::memory::{Reach, Space};
use crate::sched::Channel;
use crate::system::System;
use crate::task::Task;

/// Most entries that are looked at (Linux: ROBUST_LIST_LIMIT).
const MOST: usize = 2048;
const WAITERS: u32 = 1 << 31;
const OWNER_DIED: u32 = 1 << 30;
const OWNER: u32 = OWNER_DIED - 1;
/// In a pointer to an entry: its futex would inherit priorities, which this kernel has none of.
const INHERITS: usize = 1;

/// How a futex was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    InList,
    /// The thread was about to take it, or to give it up: then whoever waits may not have been
    /// woken yet.
    UnderWay,
}

impl<A: Arch> System<A> {
    /// Gives up the futexes of a thread, once.
    pub fn give_up_futexes(&self, task: &Task<A>, space: &Space<A>) {
        let head = core::mem::take(&mut task.own.lock().robust_list);
        if head != 0 {
            // A bad address is the program's own problem.
            let _ = self.walk_robust_list(task.tid(), space, head);
        }
    }

    fn walk_robust_list(&self, tid: u32, space: &Space<A>, head: usize) -> Result<()> {
        let bytes = A::SYSCALL_ABI.word_bytes();
        let word = |at: usize| {
            let mut word = [0; 8];
            self.read_user(space, at, &mut word[..bytes])?;
            Ok::<_, Errno>(u64::from_le_bytes(word) as usize)
        };
        let entry_at = |at| word(at).map(|entry| entry & !INHERITS);
        let mut entry = entry_at(head)?;
        let offset = word(head.wrapping_add(bytes))?;
        let under_way = entry_at(head.wrapping_add(2 * bytes))?;
        for _ in 0..MOST {
            if entry == head {
                break;
            }
            self.breathe();
            // Read before: who takes the futex over may free the entry.
            let next = entry_at(entry);
            if entry != under_way {
                self.owner_died(tid, space, entry.wrapping_add(offset), Found::InList)?;
            }
            entry = next?;
        }
        if under_way != 0 {
            self.owner_died(tid, space, under_way.wrapping_add(offset), Found::UnderWay)?;
        }
        Ok(())
    }

    fn owner_died(&self, tid: u32, space: &Space<A>, at: usize, found: Found) -> Result<()> {
        let mut seen = self.load_user_word(space, at)?;
        loop {
            if found == Found::UnderWay && seen & OWNER == 0 {
                return self.wake_one(space, at);
            }
            if seen & OWNER != tid {
                return Ok(());
            }
            let died = seen & WAITERS | OWNER_DIED;
            match self.exchange_user_word(space, at, seen, died)? {
                old if old == seen => break,
                other => seen = other,
            }
        }
        if seen & WAITERS != 0 {
            self.wake_one(space, at)?;
        }
        Ok(())
    }

    fn wake_one(&self, space: &Space<A>, at: usize) -> Result<()> {
        let word = space.name_word(at, Reach::Machine)?;
        self.wake_futex(Channel::Futex(word.name), 1);
        Ok(())
    }
}
