//! First touch of anonymous memory.
//!
//! A load gets the shared zero page, write-protected; a store gets a zeroed
//! page of its own. The zero page has no counts: it is marked `SPECIAL` in the
//! entry, is never freed and never writable (E8).

use super::{Faulting, Installed, Resolution, Step};
use crate::addr::Pfn;
use crate::format::AttrFlags;
use crate::page::PresentChange;
use crate::platform::{PhysMemory, Platform};
use crate::prot::Access;
use crate::stats::Counter;

impl<'m, P: Platform> Faulting<'_, 'm, P> {
    /// Resolves a fault on an empty entry of an anonymous area
    /// (Linux: do_anonymous_page).
    // Out of line, so that one path's locals are not part of every fault's frame.
    #[inline(never)]
    pub(super) fn first_touch(&self) -> Step<'m, P> {
        let zero = self.cx.frames().zero_page();
        if let Some(zero) = zero.filter(|_| self.access != Access::Write) {
            let prot = self.protected_prot();
            #[cfg(mm_mutant = "zero_page_is_writable")]
            let prot = self.vma.flags().writable_page_prot();
            let word = self.encode(zero, prot, AttrFlags::SPECIAL)?;
            if self.install(word, || true)? == Installed::Here {
                self.mm.stats().count(Counter::FaultZero);
            }
            return Ok(Resolution::Minor);
        }
        let pfn = self.new_own_page()?;
        self.cx.frames().memory().zero(pfn, 0);
        self.sync_if_code(pfn);
        self.install_own(pfn, Counter::FaultAnon, || true)
    }

    /// Installs a fresh page into an empty entry if `still` holds, or gives it
    /// back.
    // Out of line, so that one path's locals are not part of every fault's frame.
    #[inline(never)]
    pub(super) fn install_own(
        &self,
        pfn: Pfn,
        counter: Counter,
        still: impl Fn() -> bool,
    ) -> Step<'m, P> {
        let installed = match self.encode_own(pfn) {
            Ok(word) => self.install(word, still).map_err(Into::into),
            Err(stop) => Err(stop),
        };
        match installed {
            Ok(Installed::Here) => {
                // Whoever zaps it at once may count it down before.
                self.count_present(PresentChange { anon: 1, file: 0 });
                self.mm.stats().count(counter);
                Ok(Resolution::Minor)
            }
            Ok(Installed::Raced) => {
                self.drop_own_page(pfn);
                Ok(Resolution::Minor)
            }
            Err(stop) => {
                self.drop_own_page(pfn);
                Err(stop)
            }
        }
    }
}
