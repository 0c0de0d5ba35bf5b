//! Objects: the page cache against a model, tickets, sizes, refusals.
//!
//! No page table is made here: of each page size, one machine.

use mm_core::Mm;
use mm_core::addr::Pfn;
use mm_core::error::MmError;
use mm_core::object::{
    CachedPage, Found, ObjectRef, ObjectView, PagerFacts, Progress, Ticket, TicketError,
};
use mm_core::page::PageFlags;
use mm_core::platform::PhysMemory;
use mm_core::stats::Counter;
use mm_core::sync::NoContext;
use mm_testkit::format::AnyFormat;
use mm_testkit::machine::{Machine, on_every_page_size};
use mm_testkit::patience::until;
use mm_testkit::platform::{TestPlatform, on_cpu};
use mm_testkit::random::Random;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

type P = TestPlatform<AnyFormat>;

fn make(machine: &Machine, frames: usize) -> Mm<P> {
    let mm = Mm::new(TestPlatform::new(machine.format(), 0x400, frames));
    mm.frames()
        .add_region(&NoContext, Pfn::new(0x400), frames as u64)
        .unwrap();
    mm
}

/// The machine is as new: no node, no frame lost.
fn assert_clean(mm: &Mm<P>, free: usize) {
    mm.drain();
    assert!(mm.usage().is_clean(), "{:?}", mm.usage());
    assert_eq!(mm.frames().free_frames(), free, "frames leaked");
    mm.platform().assert_preemptible();
}

/// Truncates, and grows again to what it was.
fn drop_pages_from(object: &ObjectRef<'_, P>, page_size: u64, from: u64) {
    let size = object.size();
    object.set_size((from * page_size).min(size)).unwrap();
    object.set_size(size).unwrap();
}

/// What a pager holds at an offset.
fn byte_of(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9) >> 13) as u8 | 1
}

/// Reads as a kernel would: transfers what is to be transferred.
fn serve(page_size: u64, ticket: Ticket<'_, P>, file: &[u8]) {
    match ticket {
        Ticket::Start(mut io) => {
            let start = (io.offset() as usize).min(file.len());
            let end = (start + page_size as usize).min(file.len());
            let (a, b) = file[start..end].split_at((end - start) / 3);
            io.fill(a.len(), b);
            io.fill(0, a);
            io.finish(Ok(()));
        }
        other => panic!("{other:?} with one thread"),
    }
}

fn complete<'m>(
    page_size: u64,
    file: &[u8],
    len: usize,
    mut step: impl FnMut(usize) -> Progress<'m, P>,
) -> Result<usize, MmError> {
    let mut done = 0;
    loop {
        let progress = step(done);
        done += progress.done;
        match (progress.wait, progress.error) {
            (Some(ticket), _) => serve(page_size, ticket, file),
            (None, Some(error)) => return Err(error),
            (None, None) => {
                assert!(done <= len);
                return Ok(done);
            }
        }
    }
}

fn read_all(
    page_size: u64,
    object: &ObjectRef<'_, P>,
    file: &[u8],
    offset: u64,
    bytes: &mut [u8],
) -> usize {
    let len = bytes.len();
    complete(page_size, file, len, |done| {
        object.read(offset + done as u64, &mut bytes[done..])
    })
    .unwrap()
}

fn write_all(page_size: u64, object: &ObjectRef<'_, P>, file: &[u8], offset: u64, bytes: &[u8]) {
    let done = complete(page_size, file, bytes.len(), |done| {
        object.write(offset + done as u64, &bytes[done..])
    });
    assert_eq!(done, Ok(bytes.len()));
}

fn start<'m>(view: ObjectView<'_, 'm, P>, pgoff: u64) -> mm_core::object::IoRequest<'m, P> {
    match view.find_or_create(pgoff) {
        Found::Wait(Ticket::Start(io)) => io,
        other => panic!("expected a request, got {other:?}"),
    }
}

fn page<'c, 'm>(found: Found<'c, 'm, P>) -> CachedPage<'c, 'm, P> {
    match found {
        Found::Page(page) => page,
        other => panic!("expected a page, got {other:?}"),
    }
}

#[test]
fn files_read_write_and_resize_like_a_vector_of_bytes() {
    on_every_page_size(|machine| {
        let page_size = machine.page_size() as u64;
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let mm = make(machine, 400);
            let free = mm.frames().free_frames();
            let memory_only = seed % 2 == 0;
            let size = random.below(60_000);
            let file: Vec<u8> = (0..size).map(byte_of).collect();
            let (facts, mut model) = if memory_only {
                (PagerFacts::memory(size), vec![0; size as usize])
            } else {
                (PagerFacts::file(7, size), file.clone())
            };
            // What the pager answers: bytes that were cut off do not come back.
            let mut disk = model.clone();
            let object = mm.new_object(facts).unwrap();
            for step in 0..300 {
                let offset = random.below(model.len() as u64 + 3000);
                let len = 1 + random.below(random.clone().pick(&[10, 300, 5000, 20_000])) as usize;
                match random.below(10) {
                    0..5 => {
                        let mut bytes = vec![0xee; len];
                        let n = read_all(page_size, &object, &disk, offset, &mut bytes);
                        let end = (offset as usize + len).min(model.len());
                        let wanted = model.get(offset as usize..end).unwrap_or_default();
                        assert!(
                            bytes[..n] == *wanted,
                            "seed {seed} step {step} at {offset}+{len}"
                        );
                    }
                    5..9 => {
                        let bytes: Vec<u8> = (0..len).map(|i| (step + i) as u8).collect();
                        write_all(page_size, &object, &disk, offset, &bytes);
                        let end = offset as usize + len;
                        if model.len() < end {
                            model.resize(end, 0);
                            disk.resize(end, 0);
                        }
                        model[offset as usize..end].copy_from_slice(&bytes);
                    }
                    _ => {
                        let size = random.below(70_000);
                        object.set_size(size).unwrap();
                        model.resize(size as usize, 0);
                        disk.resize(size as usize, 0);
                    }
                }
                assert_eq!(object.size(), model.len() as u64, "seed {seed} step {step}");
            }
            drop(object);
            assert_clean(&mm, free);
        }
    });
}

#[test]
fn sparse_offsets_are_found_in_order_and_vanish_in_order() {
    on_every_page_size(|machine| {
        // Bits of the last page's number: a `usize` holds it, and an `i64` the size.
        let page = machine.page_size() as u64;
        let most = u64::from(usize::BITS.min(63 - page.ilog2()));
        let size = (i64::MAX as u64).min((usize::MAX as u64).saturating_mul(page));
        for seed in 0..30 {
            let mut random = Random::new(seed);
            let mm = make(machine, 600);
            let free = mm.frames().free_frames();
            let cx = mm.cx();
            let object = mm.new_object(PagerFacts::memory(size)).unwrap();
            let view = object.view(&cx);
            let mut model: BTreeMap<u64, Pfn> = BTreeMap::new();
            for step in 0..200 {
                let bits = random.below(most);
                let pgoff = random.below(1 << bits) | (u64::from(random.chance(30)) << bits);
                match view.find_or_create(pgoff) {
                    Found::Page(page) => {
                        let known = *model.entry(pgoff).or_insert(page.pfn());
                        assert_eq!(known, page.pfn(), "seed {seed} step {step}");
                    }
                    Found::OutOfMemory => {}
                    other => panic!("seed {seed}: {other:?}"),
                }
                if random.chance(5) {
                    let from = random.below(1 << random.clone().below(most));
                    drop_pages_from(&object, machine.page_size() as u64, from);
                    model.split_off(&from);
                }
                let from = random.below(1 << bits);
                let next = view
                    .next_page(from)
                    .map(|(pgoff, page)| (pgoff, page.pfn()));
                let wanted = model
                    .range(from..)
                    .next()
                    .map(|(&pgoff, &pfn)| (pgoff, pfn));
                assert_eq!(next, wanted, "seed {seed} step {step} from {from:#x}");
                assert_eq!(
                    object.object().cached_pages(),
                    model.len(),
                    "seed {seed} step {step}"
                );
            }
            for (&pgoff, &pfn) in &model {
                assert_eq!(
                    view.find_page(pgoff).map(|page| page.pfn()),
                    Some(pfn),
                    "seed {seed}"
                );
            }
            drop(object);
            drop(cx);
            assert_clean(&mm, free);
        }
    });
}

#[test]
fn dirty_pages_are_found_without_looking_at_the_others() {
    on_every_page_size(|machine| {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mm = make(machine, 400);
            let cx = mm.cx();
            let object = mm.new_object(PagerFacts::memory(1 << 40)).unwrap();
            let view = object.view(&cx);
            let mut dirty: BTreeMap<u64, ()> = BTreeMap::new();
            for step in 0..400 {
                let pgoff = random.below(1 << random.clone().pick(&[3, 7, 13, 20]));
                let Found::Page(page) = view.find_or_create(pgoff) else {
                    continue;
                };
                if random.chance(60) {
                    view.set_dirty(&page);
                    dirty.insert(pgoff, ());
                } else {
                    let was = view.clean(&page);
                    assert_eq!(
                        was,
                        dirty.remove(&pgoff).is_some(),
                        "seed {seed} step {step}"
                    );
                }
                drop(page);
                if random.chance(3) {
                    let from = random.below(200);
                    drop_pages_from(&object, machine.page_size() as u64, from);
                    dirty.split_off(&from);
                }
                let from = random.below(5000);
                let next = view.next_dirty(from).map(|(pgoff, _)| pgoff);
                assert_eq!(
                    next,
                    dirty.range(from..).next().map(|(&p, _)| p),
                    "seed {seed} step {step}"
                );
            }
        }
    });
}

#[test]
fn the_first_who_wants_a_page_reads_it_and_all_others_join() {
    on_every_page_size(|machine| {
        let page_size = machine.page_size() as u64;
        let mm = make(machine, 128);
        let free = mm.frames().free_frames();
        let cx = mm.cx();
        let object = mm
            .new_object(PagerFacts::file(0xabcdef, 3 * page_size + 5))
            .unwrap();
        let view = object.view(&cx);
        let mut io = start(view, 3);
        assert_eq!(
            (io.key(), io.pgoff(), io.offset()),
            (0xabcdef, 3, 3 * page_size)
        );
        let key = io.ticket_key();
        assert!(matches!(view.find_or_create(3), Found::Wait(Ticket::Join(k)) if k == key));
        assert!(view.find_page(3).is_none(), "not up to date yet");
        assert!(mm.is_pending(key));
        // A request travels: another thread does the transfer.
        std::thread::scope(|s| {
            s.spawn(|| {
                on_cpu(1, || {
                    io.fill(0, &vec![0xaa; machine.page_size()]);
                    io.fill(machine.page_size() - 6, &[0xbb; 100]);
                    io.fill(machine.page_size() + 5903, &[0xcc; 4]);
                    io.finish(Ok(()));
                });
            });
        });
        assert!(!mm.is_pending(key));
        assert_eq!(mm.platform().take_log().wakes, [key]);
        let page = page(view.find_or_create(3));
        let bytes = mm.platform().arena().dump(page.pfn());
        assert_eq!(bytes[..5], [0xaa; 5]);
        assert!(
            bytes[5..].iter().all(|&b| b == 0),
            "the tail past the end is zero"
        );
        assert!(matches!(view.find_or_create(4), Found::PastEof));
        assert_eq!(mm.stats().get(Counter::CacheRead), 1);
        assert_eq!(mm.stats().get(Counter::CacheJoin), 1);
        drop(page);
        drop(object);
        drop(cx);
        assert_clean(&mm, free);
    });
}

#[test]
fn a_failed_or_dropped_request_leaves_no_page_and_wakes_who_joined() {
    on_every_page_size(|machine| {
        let page_size = machine.page_size() as u64;
        let mm = make(machine, 128);
        let free = mm.frames().free_frames();
        let cx = mm.cx();
        let object = mm.new_object(PagerFacts::file(1, 10 * page_size)).unwrap();
        let view = object.view(&cx);
        for fail in [true, false] {
            let io = start(view, 2);
            let key = io.ticket_key();
            assert!(matches!(
                view.find_or_create(2),
                Found::Wait(Ticket::Join(_))
            ));
            if fail {
                io.finish(Err(TicketError));
            } else {
                drop(io);
            }
            assert_eq!(mm.platform().take_log().wakes, [key]);
            assert_eq!(object.object().cached_pages(), 0);
        }
        // The next one starts anew, and can succeed.
        start(view, 2).finish(Ok(()));
        let _page = page(view.find_or_create(2));
        drop(_page);
        assert_eq!(mm.stats().get(Counter::CacheError), 2);
        drop(object);
        drop(cx);
        assert_clean(&mm, free);
    });
}

#[test]
fn a_request_outlives_every_reference_to_its_object() {
    on_every_page_size(|machine| {
        let page_size = machine.page_size() as u64;
        let mm = make(machine, 128);
        let free = mm.frames().free_frames();
        let object = mm.new_object(PagerFacts::file(9, page_size)).unwrap();
        let cx = mm.cx();
        let io = start(object.view(&cx), 0);
        drop(cx);
        drop(object);
        assert_eq!(mm.usage().objects, 1);
        assert_eq!(io.key(), 9);
        io.finish(Ok(()));
        assert_clean(&mm, free);
    });
}

#[test]
fn a_page_truncated_while_it_is_read_goes_when_the_read_ends() {
    on_every_page_size(|machine| {
        let page_size = machine.page_size() as u64;
        let mm = make(machine, 128);
        let free = mm.frames().free_frames();
        let cx = mm.cx();
        let object = mm.new_object(PagerFacts::file(9, 4 * page_size)).unwrap();
        let view = object.view(&cx);
        let mut io = start(view, 3);
        let mut last = start(view, 1);
        object.set_size(page_size + 10).unwrap();
        io.fill(0, &vec![1; machine.page_size()]);
        io.finish(Ok(()));
        assert!(matches!(view.find_or_create(3), Found::PastEof));
        // The new last page was LOCKED meanwhile: its reader cuts it.
        last.fill(0, &vec![2; machine.page_size()]);
        last.finish(Ok(()));
        let cut = page(view.find_or_create(1));
        let bytes = mm.platform().arena().dump(cut.pfn());
        assert!(bytes[..10].iter().all(|&b| b == 2) && bytes[10..].iter().all(|&b| b == 0));
        drop(cut);
        // Growing again shows zeros, in the old last page and behind it.
        object.set_size(4 * page_size).unwrap();
        let mut bytes = vec![9; machine.page_size()];
        assert_eq!(object.read(page_size, &mut bytes).done, machine.page_size());
        assert!(bytes[10..].iter().all(|&b| b == 0));
        drop(object);
        drop(cx);
        assert_clean(&mm, free);
    });
}

#[test]
fn growth_shows_zeros_where_a_mapping_wrote_past_the_end() {
    on_every_page_size(|machine| {
        let mm = make(machine, 128);
        let cx = mm.cx();
        let object = mm.new_object(PagerFacts::memory(100)).unwrap();
        let view = object.view(&cx);
        let page = page(view.find_or_create(0));
        mm.frames().memory().write(page.pfn(), 50, &[0x77; 1000]);
        object.set_size(2000).unwrap();
        let mut bytes = [1; 2000];
        assert_eq!(object.read(0, &mut bytes).done, 2000);
        assert!(bytes[50..100].iter().all(|&b| b == 0x77));
        assert!(bytes[100..].iter().all(|&b| b == 0));
        assert_eq!(object.set_size(u64::MAX), Err(MmError::TooBig));
        assert_eq!(object.size(), 2000);
    });
}

#[test]
fn a_page_in_use_survives_truncation_but_is_found_no_more() {
    on_every_page_size(|machine| {
        let page_size = machine.page_size() as u64;
        let mm = make(machine, 128);
        let free = mm.frames().free_frames();
        let cx = mm.cx();
        let object = mm.new_object(PagerFacts::memory(8 * page_size)).unwrap();
        let view = object.view(&cx);
        let held = page(view.find_or_create(5));
        view.set_dirty(&held);
        assert_eq!(held.record().refs(), 2);
        object.set_size(0).unwrap();
        assert!(!view.reaches(0));
        assert_eq!(held.record().refs(), 1);
        assert!(held.record().has(PageFlags::DETACHED));
        object.set_size(8 * page_size).unwrap();
        assert!(view.find_page(5).is_none());
        let fresh = page(view.find_or_create(5));
        assert_ne!(fresh.pfn(), held.pfn());
        drop((held, fresh));
        drop(object);
        drop(cx);
        assert_clean(&mm, free);
    });
}

#[test]
fn writing_waits_for_the_end_of_a_truncation() {
    on_every_page_size(|machine| {
        let size = machine.page_size();
        let mm = Arc::new(make(machine, 128));
        let object = mm.new_object(PagerFacts::memory(0)).unwrap();
        let mut waited = 0;
        for nth in 1.. {
            write_all(size as u64, &object, &[], 0, &vec![5; 8 * size]);
            let turns = mm.platform().relaxes();
            let (begin, begun) = std::sync::mpsc::channel();
            let through = Arc::new(AtomicBool::new(false));
            let reached = std::thread::scope(|s| {
                let (object, is_through) = (&object, through.clone());
                let writer = s.spawn(move || {
                    begun.recv().ok()?;
                    let done = on_cpu(1, || object.write(size as u64, b"new").done);
                    through.store(true, Ordering::SeqCst);
                    Some(done)
                });
                let machine = mm.clone();
                mm.platform().preempt_nth(nth, move || {
                    begin.send(()).unwrap();
                    // The writer must not put a page in that we then drop.
                    until("the writer neither wrote nor waited", || {
                        is_through.load(Ordering::SeqCst) || machine.platform().relaxes() > turns
                    });
                });
                on_cpu(0, || object.set_size(0).unwrap());
                mm.platform().preempt_no_more();
                writer.join().unwrap()
            });
            let Some(done) = reached else { break };
            assert_eq!(done, 3);
            waited += usize::from(mm.platform().relaxes() > turns);
            let mut bytes = vec![1; 8 * size];
            let left = object.read(0, &mut bytes).done;
            // Cut off with the rest, or there.
            assert!(left == 0 || left == size + 3, "place {nth}: {left} bytes");
            if left > 0 {
                assert!(bytes[..size].iter().all(|&b| b == 0), "place {nth}");
                assert_eq!(&bytes[size..left], b"new", "place {nth}");
            }
            object.set_size(0).unwrap();
        }
        assert!(waited > 0, "no writer had to wait");
    });
}

#[test]
fn executed_objects_are_not_written_and_written_ones_not_executed() {
    on_every_page_size(|machine| {
        let mm = make(machine, 128);
        let object = mm.new_object(PagerFacts::file(1, 0)).unwrap();
        let node = object.object();
        node.allow_writer().unwrap();
        node.allow_writer().unwrap();
        assert_eq!(node.deny_writers(), Err(MmError::Busy));
        node.end_writer();
        assert_eq!(node.deny_writers(), Err(MmError::Busy));
        node.end_writer();
        node.deny_writers().unwrap();
        node.deny_writers().unwrap();
        assert_eq!(node.allow_writer(), Err(MmError::Busy));
        node.end_deny();
        assert_eq!(node.allow_writer(), Err(MmError::Busy));
        node.end_deny();
        node.allow_writer().unwrap();
        assert_eq!(MmError::Busy.errno(), 26);
    });
}

#[test]
fn whole_pages_are_written_without_a_read() {
    on_every_page_size(|machine| {
        let page_size = machine.page_size() as u64;
        let mm = make(machine, 128);
        let object = mm
            .new_object(PagerFacts::file(1, 2 * page_size + 100))
            .unwrap();
        assert!(
            object
                .write(0, &vec![1; machine.page_size()])
                .wait
                .is_none()
        );
        // The last page is overwritten up to its end, and past it.
        assert!(object.write(2 * page_size, &[2; 100]).wait.is_none());
        assert!(object.write(3 * page_size + 7, &[3; 5]).wait.is_none());
        assert_eq!(mm.stats().get(Counter::CacheRead), 0);
        let partial = object.write(page_size + 1, &vec![4; machine.page_size() - 1]);
        assert!(
            matches!(partial.wait, Some(Ticket::Start(_))),
            "{partial:?}"
        );
    });
}

#[test]
fn lesson_58_a_page_is_not_put_in_after_the_truncation_that_would_drop_it() {
    on_every_page_size(|machine| {
        // At each allocation of the lookup, somebody else empties the object.
        for (file, nth) in [(true, 1), (true, 2), (true, 3), (false, 1), (false, 2)] {
            let mm: &'static Mm<P> = Box::leak(Box::new(make(machine, 128)));
            let size = 1 << 20;
            let facts = if file {
                PagerFacts::file(1, size)
            } else {
                PagerFacts::memory(size)
            };
            let object: &'static _ = Box::leak(Box::new(mm.new_object(facts).unwrap()));
            let cx = mm.cx();
            mm.platform()
                .interrupt_nth(nth, move || object.set_size(0).unwrap());
            let found = object.view(&cx).find_or_create(200);
            assert!(
                matches!(found, Found::PastEof),
                "allocation {nth}: {found:?}"
            );
            assert_eq!(object.object().cached_pages(), 0);
        }
    });
}

#[test]
fn h3_who_loses_the_race_for_a_page_takes_the_winners() {
    on_every_page_size(|machine| {
        for nth in 1..=3 {
            let mm: &'static Mm<P> = Box::leak(Box::new(make(machine, 128)));
            let object: &'static _ = Box::leak(Box::new(
                mm.new_object(PagerFacts::memory(1 << 24)).unwrap(),
            ));
            let cx = mm.cx();
            mm.platform().interrupt_nth(nth, move || {
                let cx = mm.cx();
                drop(page(object.view(&cx).find_or_create(200)));
            });
            let free = mm.frames().free_frames();
            let page = page(object.view(&cx).find_or_create(200));
            assert_eq!(page.record().refs(), 2, "allocation {nth}");
            assert_eq!(object.object().cached_pages(), 1);
            // One page, one slab of radix nodes.
            mm.drain();
            assert_eq!(mm.frames().free_frames(), free - 2, "allocation {nth}");
        }
    });
}

/// What a verb under injection changes must be all or nothing.
fn inject(
    machine: &Machine,
    name: &str,
    file: bool,
    verb: impl Fn(&Mm<P>, &ObjectRef<'_, P>) -> bool,
) {
    let mut nth = 1;
    loop {
        let mm = make(machine, 256);
        let free = mm.frames().free_frames();
        let size = 1 << 34;
        let facts = if file {
            PagerFacts::file(1, size)
        } else {
            PagerFacts::memory(size)
        };
        let object = mm.new_object(facts).unwrap();
        mm.drain();
        let before = (
            mm.usage().radix_nodes,
            object.object().cached_pages(),
            object.size(),
        );
        mm.platform().fail_nth(nth);
        let worked = verb(&mm, &object);
        let failed = !mm.platform().take_log().failed.is_empty();
        mm.platform().fail_none();
        assert_eq!(worked, !failed, "{name}: allocation {nth}");
        if failed {
            let after = (
                mm.usage().radix_nodes,
                object.object().cached_pages(),
                object.size(),
            );
            assert_eq!(after, before, "{name}: allocation {nth} left something");
        }
        drop(object);
        assert_clean(&mm, free);
        if worked {
            println!("{name}: {} allocations, each refused once", nth - 1);
            assert!(nth > 1, "{name} allocates nothing");
            return;
        }
        nth += 1;
    }
}

#[test]
fn each_failing_allocation_changes_nothing() {
    on_every_page_size(|machine| {
        inject(machine, "find_or_create, memory", false, |mm, object| {
            let cx = mm.cx();
            matches!(object.view(&cx).find_or_create(100_000), Found::Page(_))
        });
        inject(machine, "find_or_create, file", true, |mm, object| {
            let cx = mm.cx();
            let found = object.view(&cx).find_or_create(100_000);
            matches!(found, Found::Wait(Ticket::Start(_)))
        });
        inject(machine, "write, new page", false, |_, object| {
            object.write(50_000, b"abc").done == 3
        });
        inject(machine, "write, growth", true, |_, object| {
            object.write((1 << 34) + 5, b"abc").done == 3
        });
        inject(machine, "new_object", true, |mm, _| {
            mm.new_object(PagerFacts::memory(1)).is_ok()
        });
    });
}

#[test]
fn many_cpus_read_each_page_once() {
    on_every_page_size(|machine| {
        let page_size = machine.page_size() as u64;
        let mm = make(machine, 700);
        let free = mm.frames().free_frames();
        let pages = 300u64;
        let object = mm
            .new_object(PagerFacts::file(1, pages * page_size))
            .unwrap();
        let reads = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for cpu in 0..4 {
                let (mm, object, reads) = (&mm, &object, &reads);
                s.spawn(move || {
                    on_cpu(cpu, || {
                        let mut random = Random::new(cpu as u64);
                        let mut seen = vec![false; pages as usize];
                        while seen.iter().any(|&s| !s) {
                            let pgoff = random.below(pages);
                            let cx = mm.cx();
                            match object.view(&cx).find_or_create(pgoff) {
                                Found::Page(page) => {
                                    let mut bytes = [0; 8];
                                    mm.frames().memory().read(page.pfn(), 0, &mut bytes);
                                    assert_eq!(u64::from_le_bytes(bytes), pgoff);
                                    seen[pgoff as usize] = true;
                                }
                                Found::Wait(Ticket::Start(mut io)) => {
                                    reads.fetch_add(1, Ordering::Relaxed);
                                    io.fill(0, &io.pgoff().to_le_bytes());
                                    io.finish(Ok(()));
                                }
                                Found::Wait(_) => std::thread::yield_now(),
                                other => panic!("{other:?}"),
                            }
                        }
                    });
                });
            }
        });
        assert_eq!(reads.load(Ordering::Relaxed), pages as usize);
        drop(object);
        assert_clean(&mm, free);
    });
}

#[test]
fn truncation_races_with_readers_and_writers() {
    on_every_page_size(|machine| {
        let page_size = machine.page_size() as u64;
        let mm = make(machine, 900);
        let free = mm.frames().free_frames();
        let object = mm.new_object(PagerFacts::file(1, 64 * page_size)).unwrap();
        std::thread::scope(|s| {
            for cpu in 0..4 {
                let (mm, object) = (&mm, &object);
                s.spawn(move || {
                    on_cpu(cpu, || {
                        let mut random = Random::new(100 + cpu as u64);
                        for _ in 0..1500 {
                            let cx = mm.cx();
                            let offset = random.below(80 * page_size);
                            match random.below(if cpu == 0 { 4 } else { 3 }) {
                                0 => match object.view(&cx).find_or_create(offset / page_size) {
                                    Found::Wait(Ticket::Start(io)) if random.chance(20) => drop(io),
                                    Found::Wait(Ticket::Start(io)) => io.finish(Ok(())),
                                    _ => {}
                                },
                                1 => {
                                    drop(cx);
                                    let _progress = object.read(offset, &mut [0; 100]);
                                }
                                2 => {
                                    drop(cx);
                                    let _progress = object.write(offset, &[1; 5000]);
                                }
                                _ => {
                                    drop(cx);
                                    object.set_size(random.below(80 * page_size)).unwrap();
                                }
                            }
                        }
                    });
                });
            }
        });
        let cx = mm.cx();
        let view = object.view(&cx);
        let end = object.size().div_ceil(page_size);
        assert!(view.next_page(end).is_none(), "a page past the end stayed");
        drop(object);
        drop(cx);
        assert_clean(&mm, free);
    });
}
