//! The global check: everything that can be reached, from everywhere.
//!
//! [`World::check`] lets each space check itself ([`AddressSpace::validate`])
//! and adds what no single space can know:
//!
//! - all spaces are among those given, and together with memory-only objects they
//!   hold exactly the charged frames and all the map counts that the machine's records show (G1,
//!   E7, I): nothing is mapped that no space maps, no page outlives its entries;
//! - a translation in any TLB allows at most what the entry in RAM allows now,
//!   and leads to the same frame. With E1 over the entries this is E1 over
//!   the TLBs: a private frame writable in any of them is reachable from
//!   exactly one place.
//!
//! Meaningful at rest only.
//!
//! [`AddressSpace::validate`]: mm_core::space::AddressSpace::validate

use crate::mmu::Walker;
use crate::world::{Space, World};
use mm_core::addr::{Pfn, Vpn};
use mm_core::format::{Entry, PageTableFormat, TableOwner};
use mm_core::page::{Kind, PageFlags};
use mm_core::platform::Platform;
use mm_core::prot::Prot;
use mm_core::table::PageTable;
use std::collections::HashSet;

impl<F: PageTableFormat, W: Walker> World<F, W> {
    /// Checks everything against everything; `spaces` are all that live (one
    /// may be given several times).
    ///
    /// # Errors
    /// What is wrong first.
    pub fn check<'a>(&self, spaces: impl IntoIterator<Item = &'a Space<F>>) -> Result<(), String> {
        let mut seen = HashSet::new();
        let (mut anon, mut file) = (0, 0);
        for space in spaces {
            if !seen.insert(space.id()) {
                continue;
            }
            let sound = space
                .validate()
                .map_err(|flaw| format!("space {}: {flaw:?}\n{}", space.id(), space.maps()))?;
            anon += sound.anon;
            file += sound.file;
        }
        let live = self.mm().usage().spaces;
        let loaded = (0..self.tlbs().cpus()).filter(|&c| self.tlbs().contents(c).0.is_some());
        // A space that only a lazy CPU keeps is empty.
        if live > seen.len() + loaded.count() {
            return Err(format!("{live} spaces live, {} were given", seen.len()));
        }
        self.check_records(anon, file)?;
        (0..self.tlbs().cpus()).try_for_each(|cpu| self.check_tlb(cpu))
    }

    /// Checks that the records of all frames together show these entries.
    fn check_records(&self, anon: usize, file: usize) -> Result<(), String> {
        let frames = self.mm().frames();
        let (mut anon_maps, mut file_maps, mut anon_pages, mut memory_pages) = (0, 0, 0, 0);
        for pfn in (0..frames.stats().total as u64 + 64).map(Pfn::new) {
            let Some(page) = frames.page(pfn).filter(|p| p.kind() == Kind::User) else {
                continue;
            };
            let (refs, maps) = (page.refs(), page.user().maps());
            memory_pages += usize::from(self.mm().is_memory_only(page));
            let own = if page.has(PageFlags::ANON) {
                anon_maps += maps as usize;
                anon_pages += 1;
                0
            } else {
                file_maps += maps as usize;
                u32::from(!page.has(PageFlags::DETACHED))
            };
            if refs != maps + own || refs == 0 {
                return Err(format!("{pfn}: {refs} references, {maps} maps: {page:?}"));
            }
        }
        for (what, have, want) in [
            ("entries of anonymous pages", anon, anon_maps),
            ("entries of cached pages", file, file_maps),
        ] {
            if have != want {
                return Err(format!("{have} {what}, but records count {want}"));
            }
        }
        let charged = self.platform().charged();
        if anon < anon_pages || charged != (anon + memory_pages) as i64 {
            return Err(format!(
                "{charged} charged: {anon_pages} pages, {anon} entries, {memory_pages} of objects"
            ));
        }
        Ok(())
    }

    /// Checks that what a CPU remembers is still true.
    fn check_tlb(&self, cpu: usize) -> Result<(), String> {
        let (loaded, leaves) = self.tlbs().contents(cpu);
        let Some(loaded) = loaded else { return Ok(()) };
        let cx = self.mm().cx();
        let table = PageTable::view(&cx, loaded.root, TableOwner::User, 0);
        let format = self.platform().format();
        for (asid, leaf) in leaves {
            if asid != loaded.asid {
                continue;
            }
            let now = table
                .translate(Vpn::new(leaf.page))
                .map(|(word, level)| format.decode(word, level));
            let holds = match now {
                Some(Entry::Leaf { pfn, attrs }) => {
                    let allow = leaf.rights.owner();
                    pfn.as_u64() == leaf.frame
                        && (!allow.write || attrs.prot.contains(Prot::WRITE))
                        && (!allow.exec || attrs.prot.contains(Prot::EXEC))
                        && (!allow.read || attrs.prot.contains(Prot::READ))
                }
                _ => false,
            };
            if !holds {
                return Err(format!(
                    "CPU {cpu} remembers {leaf:x?}, but the entry is {now:x?}"
                ));
            }
        }
        Ok(())
    }
}
