//! The chains of an area: put aside, linked, hidden while it changes, unlinked.

use super::{AnonVma, AnonVmaChain, Rmap, RootGuard};
use crate::error::OutOfMemory;
use crate::platform::Platform;
use crate::pool::Handle;
use crate::sync::Ordering;
#[cfg(any(test, feature = "validate"))]
use crate::tree::Flaw;
use crate::vma::Vma;
use core::iter;

/// Chains that were put aside; dropping them gives back what was not used.
pub struct Chains<'c, 'm, P: Platform> {
    rmap: Rmap<'c, 'm, P>,
    head: Option<Handle<AnonVmaChain>>,
    left: u32,
}

impl<P: Platform> Chains<'_, '_, P> {
    /// Returns how many are left.
    pub fn left(&self) -> u32 {
        self.left
    }

    fn take(&mut self) -> Option<Handle<AnonVmaChain>> {
        let chain = self.head?;
        self.head = self.rmap.chain(chain).next();
        self.left = self.left.saturating_sub(1);
        Some(chain)
    }
}

impl<P: Platform> Drop for Chains<'_, '_, P> {
    fn drop(&mut self) {
        while let Some(chain) = self.take() {
            let freed = self.rmap.chains.free(self.rmap.cx, chain);
            debug_assert_eq!(freed, Ok(()));
        }
    }
}

impl<'c, 'm, P: Platform> Rmap<'c, 'm, P> {
    /// Puts chains aside.
    ///
    /// # Errors
    /// [`OutOfMemory`], with nothing put aside.
    ///
    /// # Locks
    /// Takes `Pool` and `Buddy`.
    pub fn reserve_chains(&self, n: u32) -> Result<Chains<'c, 'm, P>, OutOfMemory> {
        let mut chains = Chains {
            rmap: *self,
            head: None,
            left: 0,
        };
        while chains.left < n {
            let chain = self.chains.alloc(self.cx)?;
            self.chain(chain).set_next(chains.head);
            chains.head = Some(chain);
            chains.left = chains.left.saturating_add(1);
        }
        Ok(chains)
    }

    /// Takes an area's chains out of their interval trees, so that its range
    /// and offset may change. [`Self::show`] puts them back before the family
    /// is unlocked.
    pub fn hide(&self, locked: &RootGuard<'_, '_, P>, vma: Handle<Vma>) {
        for chain in self.chains_of(vma) {
            let node = self.chain(chain);
            if let (true, Some(anon)) = (node.is_shown(), node.anon()) {
                self.check_locked(locked, anon);
                self.anon(anon).tree.remove(self, chain);
            }
        }
    }

    /// Puts an area's hidden chains back, at the offsets that it has now.
    pub fn show(&self, locked: &RootGuard<'_, '_, P>, vma: Handle<Vma>) {
        let area = self.vma(vma);
        for chain in self.chains_of(vma) {
            let node = self.chain(chain);
            if let (false, Some(anon)) = (node.is_shown(), node.anon()) {
                self.check_locked(locked, anon);
                node.set_interval(area);
                self.anon(anon).tree.insert(self, chain);
            }
        }
    }

    /// Gives `to`, which has no chains, chains like those of `from`, shown at
    /// its own offsets, and the anon_vma of `from`: for a split, or a copy of
    /// the area elsewhere.
    ///
    /// `reserve` holds at least as many chains as `from` has.
    pub fn copy(
        &self,
        locked: &RootGuard<'_, '_, P>,
        to: Handle<Vma>,
        from: Handle<Vma>,
        reserve: &mut Chains<'_, '_, P>,
    ) {
        debug_assert!(self.vma(to).chain_count() == 0, "{to:?} has chains already");
        for chain in self.chains_of(from) {
            if let Some(anon) = self.chain(chain).anon() {
                self.link(locked, to, anon, reserve);
            }
        }
        if let Some(anon) = self.own(from) {
            self.adopt(to, anon);
        }
    }

    /// Moves the hidden chains and the anon_vma of `from` to `to`, which has
    /// none. They stay hidden.
    pub fn move_to(&self, locked: &RootGuard<'_, '_, P>, to: Handle<Vma>, from: Handle<Vma>) {
        let (target, source) = (self.vma(to), self.vma(from));
        debug_assert!(target.chain_count() == 0, "{to:?} has chains already");
        for chain in self.chains_of(from) {
            let node = self.chain(chain);
            debug_assert!(!node.is_shown(), "{chain:?} moves while it can be found");
            if let Some(anon) = node.anon() {
                self.check_locked(locked, anon);
            }
            node.set_vma(to);
        }
        let head = source.chains().swap(0, Ordering::Relaxed);
        target.chains().store(head, Ordering::Relaxed);
        let count = source.chain_counter().swap(0, Ordering::Relaxed);
        target.chain_counter().store(count, Ordering::Relaxed);
        let anon = source.anon_cell().swap(0, Ordering::Relaxed);
        target.anon_cell().store(anon, Ordering::Release);
    }

    /// Takes an area out of all its anon_vmas; those that it was the last of
    /// are freed. Harmless for an area without chains.
    ///
    /// No page that belongs to these anon_vmas is mapped through the area any
    /// more, and all counts of such mappings have settled.
    ///
    /// # Locks
    /// The space lock for writing, or an area that nobody can reach. Takes the
    /// family's lock, and `Pool`.
    pub fn unlink(&self, vma: Handle<Vma>) {
        let area = self.vma(vma);
        let Some(any) = self.chains_of(vma).find_map(|c| self.chain(c).anon()) else {
            return;
        };
        let locked = self.lock(any);
        let mut last_of = None;
        let mut at = Handle::from_raw(area.chains().swap(0, Ordering::Relaxed));
        while let Some(chain) = at {
            let node = self.chain(chain);
            at = node.next();
            let Some(anon) = node.anon() else { continue };
            self.check_locked(&locked, anon);
            let family = self.anon(anon);
            if node.is_shown() {
                family.tree.remove(self, chain);
            }
            if family.sub_chain() {
                // It goes once the lock, which may be in it, is released. Whoever
                // uses it also uses its parent, so that one is still there.
                if let Some(parent) = family.parent() {
                    self.anon(parent).sub_child();
                }
                node.set_next(last_of);
                last_of = Some(chain);
            } else {
                let freed = self.chains.free(self.cx, chain);
                debug_assert_eq!(freed, Ok(()));
            }
        }
        area.chain_counter().store(0, Ordering::Relaxed);
        if let Some(own) = Handle::from_raw(area.anon_cell().swap(0, Ordering::Relaxed)) {
            self.anon(own).sub_active();
        }
        drop(locked);
        while let Some(chain) = last_of {
            let node = self.chain(chain);
            last_of = node.next();
            if let Some(anon) = node.anon() {
                self.put_anon(anon);
            }
            let freed = self.chains.free(self.cx, chain);
            debug_assert_eq!(freed, Ok(()));
        }
    }

    /// Adds one chain from the reserve between an area and an anon_vma of the
    /// locked family, shown.
    pub(super) fn link(
        &self,
        locked: &RootGuard<'_, '_, P>,
        vma: Handle<Vma>,
        anon: Handle<AnonVma>,
        reserve: &mut Chains<'_, '_, P>,
    ) {
        self.check_locked(locked, anon);
        let Some(chain) = reserve.take() else {
            debug_assert!(false, "fewer chains were reserved than are needed");
            return;
        };
        let area = self.vma(vma);
        let node = self.chain(chain);
        node.set_ends(vma, anon);
        node.set_interval(area);
        node.set_next(Handle::from_raw(area.chains().load(Ordering::Relaxed)));
        area.chains().store(chain.into_raw(), Ordering::Relaxed);
        let count = area.chain_count().saturating_add(1);
        area.chain_counter().store(count, Ordering::Relaxed);
        self.anon(anon).add_chain();
        self.anon(anon).tree.insert(self, chain);
    }

    /// Makes an anon_vma that an area has a chain to the area's own: pages that
    /// are made in the area belong to it from now on.
    pub(super) fn adopt(&self, vma: Handle<Vma>, anon: Handle<AnonVma>) {
        self.anon(anon).add_active();
        // Release: whoever sees the anon_vma can be found through it.
        self.vma(vma)
            .anon_cell()
            .store(anon.into_raw(), Ordering::Release);
    }

    /// Returns the area's own anon_vma.
    pub(super) fn own(&self, vma: Handle<Vma>) -> Option<Handle<AnonVma>> {
        Handle::from_raw(self.vma(vma).anon_raw())
    }

    /// Walks the chains of an area.
    pub(super) fn chains_of(
        &self,
        vma: Handle<Vma>,
    ) -> impl Iterator<Item = Handle<AnonVmaChain>> + use<'c, 'm, P> {
        let rmap = *self;
        let head = Handle::from_raw(self.vma(vma).chains().load(Ordering::Relaxed));
        iter::successors(head, move |&chain| rmap.chain(chain).next())
    }

    fn check_locked(&self, locked: &RootGuard<'_, '_, P>, anon: Handle<AnonVma>) {
        debug_assert!(
            self.root_of(anon) == locked.root(),
            "an area has chains into two families"
        );
    }
}

/// What is wrong with an area's chains.
#[cfg(any(test, feature = "validate"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RmapFlaw {
    /// The number of chains is not what the area counts.
    Count(Handle<Vma>),
    /// A chain names another area, or no anon_vma.
    Ends(Handle<Vma>),
    /// The chains lead into two families.
    Family(Handle<Vma>),
    /// A chain is in no tree.
    Hidden(Handle<Vma>),
    /// A chain stands at other offsets than its area.
    Interval(Handle<Vma>),
    /// The area has an anon_vma but no chain to it, or chains but no anon_vma.
    Own(Handle<Vma>),
    /// An anon_vma with areas has no reference.
    Freed(Handle<AnonVma>),
    /// An anon_vma counts other areas than those in its tree.
    Areas(Handle<AnonVma>),
    /// The interval tree of an anon_vma is damaged.
    Tree(Handle<AnonVma>, Flaw),
}

#[cfg(any(test, feature = "validate"))]
impl<P: Platform> Rmap<'_, '_, P> {
    /// Checks an area's chains and the anon_vmas that they lead to.
    ///
    /// # Errors
    /// The first flaw found.
    ///
    /// # Locks
    /// The space lock; takes the family's for writing.
    pub fn check(&self, vma: Handle<Vma>) -> Result<(), RmapFlaw> {
        let area = self.vma(vma);
        let own = self.own(vma);
        let Some(own) = own else {
            let none = area.chain_count() == 0 && self.chains_of(vma).next().is_none();
            return if none {
                Ok(())
            } else {
                Err(RmapFlaw::Own(vma))
            };
        };
        let locked = self.lock(own);
        let mut count = 0u32;
        let mut seen_own = false;
        for chain in self.chains_of(vma) {
            count = count.saturating_add(1);
            let node = self.chain(chain);
            let (Some(anon), true) = (node.anon(), node.vma() == Some(vma)) else {
                return Err(RmapFlaw::Ends(vma));
            };
            if self.anon(anon).root() != Some(locked.root()) {
                return Err(RmapFlaw::Family(vma));
            }
            if !node.is_shown() {
                return Err(RmapFlaw::Hidden(vma));
            }
            if node.interval() != (area.pgoff(), area.last_pgoff()) {
                return Err(RmapFlaw::Interval(vma));
            }
            seen_own |= anon == own;
            self.check_anon(anon)?;
        }
        if count != area.chain_count() {
            return Err(RmapFlaw::Count(vma));
        }
        if seen_own {
            Ok(())
        } else {
            Err(RmapFlaw::Own(vma))
        }
    }

    /// Walks the anon_vmas that an area has chains to.
    ///
    /// # Locks
    /// The space lock.
    pub fn anons_of(&self, vma: Handle<Vma>) -> impl Iterator<Item = Handle<AnonVma>> {
        self.chains_of(vma)
            .filter_map(|chain| self.chain(chain).anon())
    }

    fn check_anon(&self, anon: Handle<AnonVma>) -> Result<(), RmapFlaw> {
        let family = self.anon(anon);
        if family.refs() == 0 {
            return Err(RmapFlaw::Freed(anon));
        }
        let tree = family.tree.tree();
        let areas = tree
            .check(self)
            .map_err(|flaw| RmapFlaw::Tree(anon, flaw))?;
        let owned = tree
            .iter(self)
            .filter_map(|chain| self.chain(chain).vma())
            .filter(|&vma| self.own(vma) == Some(anon))
            .count();
        let counted = (family.chains() as usize, family.active() as usize);
        if counted == (areas, owned) {
            Ok(())
        } else {
            Err(RmapFlaw::Areas(anon))
        }
    }
}
