//! Finding the record of a frame.
//!
//! ```text
//!            root (in PageMap)   directory         directory        records
//! pfn u32 =  [  5 bits        |  10 bits       |  10 bits        |  7 bits   ]   4 KiB frames
//!               names a frame    names a frame    names a frame     a Page of 32 bytes
//! ```
//!
//! Three dependent loads, whatever the machine. The unit of growth is one
//! frame of records (512 KiB of RAM), so odd-sized regions, holes of firmware
//! and memory that arrives later cost no records for what is not there. A
//! directory describes a section of RAM; directories and records lie in
//! frames of the region that needed them first and are never freed. Entries
//! are only ever set, once, with release: finders take no lock.
//!
//! Frame 0 is never handed out, so zero names no frame in all 32-bit words.

use crate::addr::Pfn;
use crate::page::{Kind, Page};
use crate::platform::PhysMemory;
use crate::sync::{Fixed32, Ordering};

const ROOTS: usize = 32;
/// log2 of the bytes of a record.
const RECORD_SHIFT: u32 = 5;
/// log2 of the bytes of a directory entry.
const ENTRY_SHIFT: u32 = 2;

/// The records of all frames of a machine, by frame number.
#[derive(Debug)]
pub struct PageMap {
    roots: [Fixed32; ROOTS],
}

/// Why a region was not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionError {
    /// The records would leave no frame of the region to use.
    TooSmall,
    /// No frame of it has a number that leaves and the 32 bits of links can name.
    TooHigh,
    /// A frame of it was added before.
    Overlap,
}

/// How a frame number is cut into indices.
#[derive(Clone, Copy)]
struct Cut {
    slot_bits: u32,
    directory_bits: u32,
}

impl Cut {
    const fn new(page_shift: u32) -> Self {
        Self {
            slot_bits: page_shift.saturating_sub(RECORD_SHIFT),
            directory_bits: page_shift.saturating_sub(ENTRY_SHIFT),
        }
    }

    const fn low(n: u32, bits: u32) -> usize {
        (n & !u32::MAX.wrapping_shl(bits)) as usize
    }

    const fn slot(self, pfn: u32) -> usize {
        Self::low(pfn, self.slot_bits)
    }

    /// The number of the frame of records, counted over the whole machine.
    const fn group(self, pfn: u32) -> u32 {
        match pfn.checked_shr(self.slot_bits) {
            Some(n) => n,
            None => 0,
        }
    }

    const fn leaf(self, group: u32) -> usize {
        Self::low(group, self.directory_bits)
    }

    /// The number of the directory above a group.
    const fn section(self, group: u32) -> u32 {
        match group.checked_shr(self.directory_bits) {
            Some(n) => n,
            None => 0,
        }
    }

    const fn root(self, section: u32) -> usize {
        match section.checked_shr(self.directory_bits) {
            Some(n) => n as usize,
            None => 0,
        }
    }
}

/// Reads the frame that a word names; zero is none.
fn named(word: &Fixed32) -> Option<Pfn> {
    // Acquire: what the frame holds is seen as it was built.
    match word.load(Ordering::Acquire) {
        0 => None,
        n => Some(Pfn::new(u64::from(n))),
    }
}

impl PageMap {
    /// Makes a map without frames.
    pub const fn new() -> Self {
        Self {
            roots: [const { Fixed32::new(0) }; ROOTS],
        }
    }

    /// Returns the record of a frame, in three loads. `None` where no region
    /// was added near; the record of a frame between regions is `Absent`.
    #[inline]
    pub fn page<'m, M: PhysMemory>(
        &self,
        memory: &'m M,
        page_shift: u32,
        pfn: Pfn,
    ) -> Option<&'m Page> {
        let n = u32::try_from(pfn.as_u64()).ok()?;
        let cut = Cut::new(page_shift);
        let records = self.records(memory, cut, cut.group(n))?;
        memory.record(records, cut.slot(n), cut.slot_bits)
    }

    /// Makes records for the frames `start..end`, in frames that it takes from
    /// the start of the region. Returns the first frame it did not take.
    ///
    /// # Errors
    /// [`RegionError`]; then nothing was changed.
    ///
    /// # Locks
    /// None, but callers do this one at a time.
    pub(super) fn extend<M: PhysMemory>(
        &self,
        memory: &M,
        page_shift: u32,
        start: Pfn,
        end: Pfn,
    ) -> Result<Pfn, RegionError> {
        let cut = Cut::new(page_shift);
        let first = u32::try_from(start.as_u64()).map_err(|_| RegionError::TooHigh)?;
        let last =
            u32::try_from(end.as_u64().saturating_sub(1)).map_err(|_| RegionError::TooHigh)?;
        if cut.root(cut.section(cut.group(last))) >= ROOTS {
            return Err(RegionError::TooHigh);
        }
        let absent = |n: u32| {
            self.page(memory, page_shift, Pfn::new(u64::from(n)))
                .is_none_or(|page| page.kind() == Kind::Absent)
        };
        if !(first..=last).all(absent) {
            return Err(RegionError::Overlap);
        }
        let groups = cut.group(first)..=cut.group(last);
        let need = self.missing(memory, cut, groups.clone());
        let rest = start
            .checked_add(need)
            .filter(|rest| *rest < end)
            .ok_or(RegionError::TooSmall)?;
        let mut spare = first;
        let mut take = || {
            let n = spare;
            spare = spare.wrapping_add(1);
            Pfn::new(u64::from(n))
        };
        for group in groups {
            self.ensure(memory, cut, group, &mut take);
        }
        debug_assert_eq!(u64::from(spare), rest.as_u64());
        Ok(rest)
    }

    /// Counts the frames that [`Self::ensure`] will take for these groups.
    fn missing<M: PhysMemory>(
        &self,
        memory: &M,
        cut: Cut,
        groups: core::ops::RangeInclusive<u32>,
    ) -> u64 {
        let mut need = 0u64;
        let (mut seen_section, mut seen_root) = (None, None);
        for group in groups {
            if self.records(memory, cut, group).is_none() {
                need = need.saturating_add(1);
            }
            let section = cut.section(group);
            if seen_section.replace(section) != Some(section)
                && self.directory(memory, cut, section).is_none()
            {
                need = need.saturating_add(1);
            }
            let root = cut.root(section);
            if seen_root.replace(root) != Some(root)
                && self.roots.get(root).and_then(named).is_none()
            {
                need = need.saturating_add(1);
            }
        }
        need
    }

    /// Makes the records of a group if there are none yet.
    fn ensure<M: PhysMemory>(
        &self,
        memory: &M,
        cut: Cut,
        group: u32,
        take: &mut impl FnMut() -> Pfn,
    ) {
        let section = cut.section(group);
        let Some(root) = self.roots.get(cut.root(section)) else {
            return;
        };
        let upper = named_or_made(root, take, |pfn| memory.make_words::<Fixed32>(pfn, 0));
        let Some(entry) = memory.words::<Fixed32>(upper, 0).get(cut.leaf(section)) else {
            return;
        };
        let lower = named_or_made(entry, take, |pfn| memory.make_words::<Fixed32>(pfn, 0));
        let Some(entry) = memory.words::<Fixed32>(lower, 0).get(cut.leaf(group)) else {
            return;
        };
        named_or_made(entry, take, |pfn| memory.make_records(pfn, 1));
    }

    /// Returns the frame of the directory of a section.
    #[inline]
    fn directory<M: PhysMemory>(&self, memory: &M, cut: Cut, section: u32) -> Option<Pfn> {
        let upper = self.roots.get(cut.root(section)).and_then(named)?;
        memory
            .word::<Fixed32>(upper, cut.leaf(section), cut.directory_bits)
            .and_then(named)
    }

    /// Returns the frame of the records of a group.
    #[inline]
    fn records<M: PhysMemory>(&self, memory: &M, cut: Cut, group: u32) -> Option<Pfn> {
        let lower = self.directory(memory, cut, cut.section(group))?;
        memory
            .word::<Fixed32>(lower, cut.leaf(group), cut.directory_bits)
            .and_then(named)
    }
}

/// Returns the frame that a word names, making it first if there is none.
#[expect(
    clippy::cast_possible_truncation,
    reason = "spare frames lie in a checked region"
)]
fn named_or_made(word: &Fixed32, take: &mut impl FnMut() -> Pfn, make: impl FnOnce(Pfn)) -> Pfn {
    if let Some(pfn) = named(word) {
        return pfn;
    }
    let pfn = take();
    make(pfn);
    word.store(pfn.as_u64() as u32, Ordering::Release);
    pfn
}

#[cfg(not(loom))]
impl Default for PageMap {
    fn default() -> Self {
        Self::new()
    }
}
