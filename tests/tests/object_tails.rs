//! The last page of a file whose size changes while that page is read in.
//!
//! No page table is made here: of each page size, one machine.

use mm_core::Mm;
use mm_core::addr::Pfn;
use mm_core::object::{Found, IoRequest, ObjectRef, PagerFacts, Ticket};
use mm_core::sync::NoContext;
use mm_testkit::format::AnyFormat;
use mm_testkit::machine::{Machine, on_every_page_size};
use mm_testkit::platform::TestPlatform;
use mm_testkit::random::Random;
use std::collections::BTreeMap;

type P = TestPlatform<AnyFormat>;

/// What a pager's block holds behind the end of the file.
const LEFTOVER: u8 = 0xee;
/// Bytes of the tail page that stay.
const KEPT: usize = 10;

fn make(machine: &Machine) -> Mm<P> {
    let frames = 128;
    let mm = Mm::new(TestPlatform::new(machine.format(), 0x400, frames));
    mm.frames()
        .add_region(&NoContext, Pfn::new(0x400), frames as u64)
        .unwrap();
    mm
}

/// Begins to read a page; `None` when it need not be read, or not by us.
fn begin<'m>(mm: &'m Mm<P>, file: &ObjectRef<'m, P>, pgoff: u64) -> Option<IoRequest<'m, P>> {
    match file.view(&mm.cx()).find_or_create(pgoff) {
        Found::Wait(Ticket::Start(io)) => Some(io),
        Found::Wait(Ticket::Join(_)) | Found::Page(_) | Found::PastEof => None,
        found => panic!("{found:?}"),
    }
}

/// A file of two pages at most, whose second page is read in with old bytes while
/// `change` gives it `KEPT` bytes there and then more: the rest must be zeros.
fn grown_while_read(size_in_pages: (u64, usize), change: impl Fn(&ObjectRef<'_, P>, u64)) {
    on_every_page_size(|machine| {
        let page_size = machine.page_size() as u64;
        let mm = make(machine);
        let size = size_in_pages.0 * page_size + size_in_pages.1 as u64;
        let file = mm.new_object(PagerFacts::file(9, size)).unwrap();
        let mut io = begin(&mm, &file, 1).unwrap();
        io.fill(0, &vec![LEFTOVER; machine.page_size()]);
        change(&file, page_size);
        io.finish(Ok(()));
        let mut bytes = vec![1; machine.page_size()];
        assert_eq!(file.read(page_size, &mut bytes).done, bytes.len());
        let (kept, cut) = bytes.split_at(KEPT);
        assert!(kept.iter().all(|&b| b == LEFTOVER), "what stays is lost");
        assert!(cut.iter().all(|&b| b == 0), "what was cut off came back");
    });
}

#[test]
fn bytes_cut_off_while_the_tail_is_read_stay_gone_when_the_file_grows() {
    grown_while_read((2, 0), |file, page_size| {
        file.set_size(page_size + KEPT as u64).unwrap();
        file.set_size(2 * page_size).unwrap();
    });
    // The smallest of several ends counts.
    grown_while_read((2, 0), |file, page_size| {
        for end in [2 * KEPT, KEPT, 3 * KEPT] {
            file.set_size(page_size + end as u64).unwrap();
        }
        file.set_size(2 * page_size).unwrap();
    });
}

#[test]
fn a_write_behind_a_tail_that_is_read_leaves_zeros_between() {
    grown_while_read((1, KEPT), |file, page_size| {
        assert_eq!(file.write(2 * page_size, b"x").done, 1);
    });
}

/// A file of some pages, what its pager holds, and what it should read as.
struct Script<'m> {
    mm: &'m Mm<P>,
    file: ObjectRef<'m, P>,
    page_size: usize,
    stored: Vec<u8>,
    model: Vec<u8>,
    reads: BTreeMap<u64, IoRequest<'m, P>>,
}

const PAGES: u64 = 3;

impl Script<'_> {
    fn resize(&mut self, size: usize) {
        self.stored.resize(size, 0);
        self.model.resize(size, 0);
    }

    fn begin(&mut self, pgoff: u64) {
        if let Some(mut io) = begin(self.mm, &self.file, pgoff) {
            let mut block = vec![LEFTOVER; self.page_size];
            let start = self.stored.len().min(pgoff as usize * self.page_size);
            let held = self.stored[start..].iter().zip(&mut block);
            held.for_each(|(&byte, to)| *to = byte);
            io.fill(0, &block);
            // A transfer of a page that was cut off may still be under way.
            let before = self.reads.insert(pgoff, io);
            before.into_iter().for_each(|io| io.finish(Ok(())));
        }
    }

    fn write(&mut self, offset: usize, byte: u8) {
        let progress = self.file.write(offset as u64, &[byte]);
        match progress.wait {
            None => {
                assert_eq!((progress.done, progress.error), (1, None));
                self.resize(self.model.len().max(offset + 1));
                self.model[offset] = byte;
            }
            Some(Ticket::Start(io)) => drop(io),
            Some(_) => {}
        }
    }

    /// Reads every page that is there.
    fn check(&self, step: u32) {
        for pgoff in 0..PAGES {
            let start = pgoff as usize * self.page_size;
            let len = self.model.len().saturating_sub(start).min(self.page_size);
            if len == 0 || self.file.view(&self.mm.cx()).find_page(pgoff).is_none() {
                continue;
            }
            let mut bytes = vec![1; self.page_size];
            assert_eq!(self.file.read(start as u64, &mut bytes).done, len);
            assert_eq!(bytes[..len], self.model[start..start + len], "step {step}");
        }
    }
}

/// Whatever a file is resized to and written to while its pages are read in, it
/// reads as a vector of bytes would.
#[test]
fn random_sizes_while_pages_are_read_show_no_old_bytes() {
    const STEPS: u32 = 2_000;
    on_every_page_size(|machine| {
        let mm = make(machine);
        let page_size = machine.page_size();
        let size = 2 * page_size;
        let mut script = Script {
            mm: &mm,
            file: mm.new_object(PagerFacts::file(9, size as u64)).unwrap(),
            page_size,
            stored: vec![3; size],
            model: vec![3; size],
            reads: BTreeMap::new(),
        };
        let mut random = Random::new(58);
        let mut shown = 0;
        for step in 0..STEPS {
            let at = random.below(PAGES * page_size as u64) as usize;
            match random.below(8) {
                0..3 => script.begin(random.below(PAGES)),
                3..5 => {
                    if let Some((_, io)) = script.reads.pop_first() {
                        io.finish(Ok(()));
                        shown += 1;
                    }
                }
                5..7 => {
                    script.file.set_size(at as u64).unwrap();
                    script.resize(at);
                }
                _ => script.write(at, 4),
            }
            script.check(step);
        }
        assert!(shown > 100, "{shown} reads ended");
    });
}
