//! Two small stacks of free things, so that most takes and gives touch nothing shared
//! (Bonwick and Adams, "Magazines and Vmem", 2001).
//!
//! ```text
//!   give ──► loaded ── full ──► spare ── full too ──► back to the depot, coldest first
//!   take ◄── loaded ◄─ empty ── spare ◄─ empty too ── a chain from the depot
//! ```
//!
//! The things are numbers above zero, linked through a word of their own that
//! the caller reads and writes. Having two stacks, whoever takes and gives
//! in turn at an edge goes to the depot once in a whole magazine at most.

/// How many things a magazine holds. In models one, so that they end.
pub(crate) const MAGAZINE: u32 = if cfg!(loom) { 1 } else { 32 };

/// Linked numbers: the first, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    first: u32,
    len: u32,
}

impl Chain {
    /// The chain of nothing.
    pub(crate) const EMPTY: Self = Self { first: 0, len: 0 };

    /// Returns how many are in it.
    pub(crate) const fn len(self) -> u32 {
        self.len
    }

    /// Puts a number in front. `set_link` writes its link.
    pub(crate) fn push(&mut self, number: u32, set_link: impl FnOnce(u32)) {
        set_link(self.first);
        self.first = number;
        self.len = self.len.saturating_add(1);
    }

    /// Puts a number behind the last one, whose link `set_link` writes.
    pub(crate) fn append(&mut self, number: u32, set_link: impl FnOnce(u32)) {
        if self.len == 0 {
            self.first = number;
        } else {
            set_link(number);
        }
        self.len = self.len.saturating_add(1);
    }

    /// Takes the first number. `link` reads its link.
    pub(crate) fn pop(&mut self, link: impl FnOnce(u32) -> u32) -> Option<u32> {
        let number = self.first;
        if number == 0 {
            return None;
        }
        self.first = link(number);
        self.len = self.len.saturating_sub(1);
        Some(number)
    }

    /// Takes the first number that `fits`, wherever it is. `link` reads a link,
    /// `set_link` writes that of the one before.
    pub(crate) fn remove(
        &mut self,
        fits: impl Fn(u32) -> bool,
        link: impl Fn(u32) -> u32,
        set_link: impl FnOnce(u32, u32),
    ) -> Option<u32> {
        let (mut before, mut here) = (0, self.first);
        while here != 0 && !fits(here) {
            before = here;
            here = link(here);
        }
        if before == 0 {
            return self.pop(link);
        }
        if here == 0 {
            return None;
        }
        set_link(before, link(here));
        self.len = self.len.saturating_sub(1);
        Some(here)
    }
}

/// What one CPU keeps at hand.
#[derive(Debug)]
pub(crate) struct Magazines {
    loaded: Chain,
    spare: Chain,
}

impl Magazines {
    /// Makes empty ones.
    pub(crate) const fn new() -> Self {
        Self {
            loaded: Chain::EMPTY,
            spare: Chain::EMPTY,
        }
    }

    /// Takes the number that was given last. `link` reads its link.
    pub(crate) fn take(&mut self, link: impl FnOnce(u32) -> u32) -> Option<u32> {
        self.take_if(|_| true, link)
    }

    /// Takes the number that was given last if it `fits`.
    pub(crate) fn take_if(
        &mut self,
        fits: impl FnOnce(u32) -> bool,
        link: impl FnOnce(u32) -> u32,
    ) -> Option<u32> {
        if self.loaded.len == 0 {
            core::mem::swap(&mut self.loaded, &mut self.spare);
        }
        if !fits(self.loaded.first) {
            return None;
        }
        self.loaded.pop(link)
    }

    /// Takes a number that `fits`, wherever it is: see [`Chain::remove`].
    pub(crate) fn remove(
        &mut self,
        fits: impl Fn(u32) -> bool,
        link: impl Fn(u32) -> u32,
        set_link: impl Fn(u32, u32),
    ) -> Option<u32> {
        let mut chains = [&mut self.loaded, &mut self.spare].into_iter();
        chains.find_map(|chain| chain.remove(&fits, &link, &set_link))
    }

    /// Returns whether there is nothing.
    pub(crate) const fn is_empty(&self) -> bool {
        self.loaded.len == 0 && self.spare.len == 0
    }

    /// Gives a number. `set_link` writes its link. Returns what has to go back
    /// to the depot, because nobody took any of it for long.
    #[must_use = "it would be lost"]
    pub(crate) fn give(&mut self, number: u32, set_link: impl FnOnce(u32)) -> Chain {
        let mut over = Chain::EMPTY;
        if self.loaded.len >= MAGAZINE {
            over = core::mem::replace(&mut self.spare, self.loaded);
            self.loaded = Chain::EMPTY;
        }
        self.loaded.push(number, set_link);
        over
    }

    /// Loads a chain where nothing is left.
    pub(crate) fn load(&mut self, chain: Chain) {
        debug_assert!(self.is_empty());
        self.loaded = chain;
    }

    /// Takes all there is.
    #[must_use = "it would be lost"]
    pub(crate) fn take_all(&mut self) -> [Chain; 2] {
        let all = [self.loaded, self.spare];
        #[cfg(not(mm_mutant = "drained_magazine_stays"))]
        {
            *self = Self::new();
        }
        all
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Chain, MAGAZINE, Magazines};
    use std::cell::RefCell;

    #[test]
    fn last_given_is_first_taken_and_the_coldest_goes_back() {
        let links = RefCell::new(vec![0u32; 200]);
        let mut m = Magazines::new();
        let give = |m: &mut Magazines, n: u32| m.give(n, |l| links.borrow_mut()[n as usize] = l);
        for n in 1..=2 * MAGAZINE {
            assert_eq!(give(&mut m, n), Chain::EMPTY, "{n}");
        }
        let mut over = give(&mut m, 2 * MAGAZINE + 1);
        assert_eq!(over.len(), MAGAZINE);
        let back: Vec<u32> =
            std::iter::from_fn(|| over.pop(|n| links.borrow()[n as usize])).collect();
        assert_eq!(back, (1..=MAGAZINE).rev().collect::<Vec<_>>());
        let rest: Vec<u32> =
            std::iter::from_fn(|| m.take(|n| links.borrow()[n as usize])).collect();
        assert_eq!(
            rest,
            (MAGAZINE + 1..=2 * MAGAZINE + 1).rev().collect::<Vec<_>>()
        );
        assert_eq!(m.take_all(), [Chain::EMPTY; 2]);
    }

    #[test]
    fn at_an_edge_the_depot_is_asked_once_a_magazine() {
        let links = RefCell::new(vec![0u32; 200]);
        let mut m = Magazines::new();
        let mut depot = 0;
        for n in 1..=2 * MAGAZINE {
            depot += m.give(n, |l| links.borrow_mut()[n as usize] = l).len();
        }
        assert_eq!(depot, 0);
        let mut hot = 2 * MAGAZINE + 1;
        for _ in 0..1000 {
            depot += m.give(hot, |l| links.borrow_mut()[hot as usize] = l).len();
            hot = m.take(|n| links.borrow()[n as usize]).unwrap();
        }
        assert_eq!(depot, MAGAZINE, "once");
    }
}
