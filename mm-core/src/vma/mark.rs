//! The reader count and the write mark of an area.
//!
//! A fault holds a *read count* on the one area it works in; who changes an
//! area holds its *write mark*. Both live in one word:
//!
//! ```text
//!  31      30     29        28           0
//! WRITER  DYING  REPLACED   count
//!
//! count  0        free: not in a tree, or not yet          nobody may enter
//!        1        attached, nobody inside
//!        1 + n    attached, n readers inside
//! ```
//!
//! | transition | by | when |
//! |---|---|---|
//! | 0 → WRITER+1 | maker, before it is linked | [`Mark::attach`] |
//! | n → n+1 | reader | no WRITER, n ≥ 1; else the slow path decides |
//! | n+1 → n | reader | leaves |
//! | +WRITER | holder of the space lock for writing | then waits until count is 1 |
//! | +DYING | the writer | what stays in the tree until its flush is done |
//! | +REPLACED | the writer | with DYING: another area comes in its place |
//! | −WRITER | the writer | its changes are complete |
//! | WRITER+1 → 0 | the writer | unlinked: the node may be freed |
//!
//! A reader never waits: it enters or gives up. A writer waits for readers,
//! and those wait for nothing that a writer holds: they took no space lock, or
//! hold it for reading, which the writer has waited for already. Nobody waits
//! for somebody else's mark while holding the space lock: marks that outlive
//! the lock are only taken off under it (`space::busy`). So there is no cycle.
//!
//! A node is type-stable, so counting in on a stale handle is harmless; what
//! was found is re-checked afterwards ([`super::Vma::try_read`]).

use crate::sync::{AtomicU32, Context, Ordering};

const WRITER: u32 = 1 << 31;
const DYING: u32 = 1 << 30;
const REPLACED: u32 = 1 << 29;
const COUNT: u32 = REPLACED - 1;

/// The state word of an area.
#[derive(Debug)]
pub(super) struct Mark(AtomicU32);

impl Mark {
    /// Makes the word of a free node.
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Makes a filled node enterable, once unmarked: all that was written
    /// before is seen by who enters.
    pub(super) fn attach(&self) {
        debug_assert_eq!(self.0.load(Ordering::Relaxed), 0, "attached twice");
        self.0.store(WRITER | 1, Ordering::Release);
    }

    /// Counts a reader in, or returns `false` where one must not enter.
    pub(super) fn try_enter(&self) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let marked = seen & (WRITER | DYING) != 0 && !cfg!(mm_mutant = "marked_is_entered");
            if seen == 0 || marked || seen & COUNT == COUNT {
                return false;
            }
            // Acquire: pairs with the release of `attach` and `unmark`.
            let next = seen.wrapping_add(1);
            match self
                .0
                .compare_exchange_weak(seen, next, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Counts a reader out.
    pub(super) fn leave(&self) {
        // Release: what the reader did is seen by the writer that waits.
        let order = if cfg!(mm_mutant = "reader_leaves_without_release") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        let was = self.0.fetch_sub(1, order);
        debug_assert!(was & COUNT > 1, "a reader left that was not inside");
    }

    /// Sets the mark and waits until no reader is inside.
    pub(super) fn mark(&self, cx: &impl Context) {
        let was = self.0.fetch_or(WRITER, Ordering::Acquire);
        debug_assert!(was & COUNT != 0, "marked a free node");
        let mut spins = 0u32;
        #[cfg(not(mm_mutant = "mark_without_wait"))]
        while self.0.load(Ordering::Acquire) & COUNT > 1 {
            #[cfg(not(mm_mutant = "mark_waits_deaf"))]
            cx.relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Notes that the area goes as soon as its flush is done.
    pub(super) fn set_dying(&self) {
        debug_assert!(self.is_marked());
        self.0.fetch_or(DYING, Ordering::Relaxed);
    }

    /// Notes that another area comes in the place of the dying one.
    pub(super) fn set_replaced(&self) {
        debug_assert!(self.is_marked() && self.is_dying());
        self.0.fetch_or(REPLACED, Ordering::Relaxed);
    }

    /// Removes the mark: changes are complete and seen by who enters next.
    pub(super) fn unmark(&self) {
        debug_assert!(self.is_marked());
        let order = if cfg!(mm_mutant = "writer_leaves_without_release") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.0.fetch_and(!WRITER, order);
    }

    /// Makes the unlinked node free.
    pub(super) fn detach(&self) {
        debug_assert_eq!(
            self.0.load(Ordering::Relaxed) & !(DYING | REPLACED),
            WRITER | 1,
            "freed in use"
        );
        self.0.store(0, Ordering::Release);
    }

    pub(super) fn is_marked(&self) -> bool {
        self.0.load(Ordering::Relaxed) & WRITER != 0
    }

    pub(super) fn is_dying(&self) -> bool {
        self.0.load(Ordering::Relaxed) & DYING != 0
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.0.load(Ordering::Relaxed) & REPLACED != 0
    }

    pub(super) fn is_attached(&self) -> bool {
        self.0.load(Ordering::Relaxed) & COUNT != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::NoContext;

    #[test]
    fn readers_enter_only_what_is_attached_and_unmarked() {
        let m = Mark::new();
        assert!(!m.try_enter(), "free");
        m.attach();
        assert!(!m.try_enter(), "not yet complete");
        m.unmark();
        assert!(m.try_enter() && m.try_enter());
        m.leave();
        m.leave();
        m.mark(&NoContext);
        assert!(!m.try_enter(), "marked");
        m.set_dying();
        m.unmark();
        assert!(!m.try_enter(), "dying");
        m.mark(&NoContext);
        m.detach();
        assert!(!m.try_enter() && !m.is_attached() && !m.is_dying());
    }

    #[test]
    fn a_writer_waits_for_readers_inside() {
        let m = Mark::new();
        m.attach();
        m.unmark();
        assert!(m.try_enter());
        let seen = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            let w = s.spawn(|| {
                m.mark(&NoContext);
                assert!(seen.load(Ordering::Relaxed), "went ahead of a reader");
            });
            while !m.is_marked() {
                std::hint::spin_loop();
            }
            assert!(!m.try_enter());
            seen.store(true, Ordering::Relaxed);
            m.leave();
            w.join().unwrap();
        });
    }
}
