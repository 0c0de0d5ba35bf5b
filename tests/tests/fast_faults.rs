//! Faults that take no space lock: which do, and that a writer of the space
//! does not hold them up.

use mm_core::Mm;
use mm_core::addr::{Pfn, VirtAddr};
use mm_core::fault::{Fault, FaultOutcome, Mode};
use mm_core::platform::Platform;
use mm_core::prot::{Access, MemType, Prot};
use mm_core::space::{Advice, Backing, MapRequest};
use mm_core::stats::Counter;
use mm_testkit::machine::on_every_machine;
use mm_testkit::platform::on_cpu;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The page where the areas begin.
const FIRST: usize = 0x40000;

/// Returns how many faults of `verb` took which path: fast, slow.
fn count_paths<P: Platform>(mm: &Mm<P>, verb: impl FnOnce()) -> (usize, usize) {
    let stats = mm.stats();
    let (fast, slow) = (stats.get(Counter::FaultFast), stats.get(Counter::FaultSlow));
    verb();
    (
        stats.get(Counter::FaultFast) - fast,
        stats.get(Counter::FaultSlow) - slow,
    )
}

/// After an area's first private page every fault in it is fast: first stores,
/// loads of the zero page, stores over it, shared pages, copies after a fork,
/// rights that grew. Only the first page, and what no area holds, is slow.
#[test]
fn only_what_needs_structure_takes_the_space_lock() {
    on_every_machine(|machine| {
        let page_size = machine.page_size();
        let w = machine.world(2048, 1, 1);
        let s = w.space();
        let at = FIRST * page_size;
        let area = MapRequest::anonymous(16 * page_size, Prot::RW).fixed(VirtAddr::new(at));
        s.map(&area).unwrap();
        let first = count_paths(w.mm(), || w.poke(0, &s, at, 1).unwrap());
        assert_eq!(first, (0, 1), "the first page chooses an anon_vma");
        let rest = count_paths(w.mm(), || {
            for page in 1..16 {
                if page % 2 == 0 {
                    assert_eq!(w.peek(0, &s, at + page * page_size), Ok(0));
                }
                w.poke(0, &s, at + page * page_size, page as u8).unwrap();
            }
        });
        assert_eq!(rest, (15 + 7, 0), "first stores, and loads before them");
        let child = s.fork().unwrap();
        let copies = count_paths(w.mm(), || {
            for page in 0..16 {
                w.poke(0, &s, at + page * page_size, 1).unwrap();
                w.poke(0, &child, at + page * page_size, 2).unwrap();
            }
        });
        assert_eq!(copies, (32, 0), "copies and reuses");
        let wild = count_paths(w.mm(), || assert!(w.peek(0, &s, 0x10 * page_size).is_err()));
        assert_eq!(
            wild,
            (0, 1),
            "that there is no area is decided under the lock"
        );
        drop((s, child));
        w.assert_empty();
    });
}

/// The same in mappings of a file whose pages are cached: loads, stores that dirty, stores that
/// copy, with a page there and without, and stores that use a copy again.
#[test]
fn only_the_first_private_page_of_a_file_takes_the_space_lock() {
    const PAGES: usize = 8;
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(2048, 1, 1);
        let s = w.space();
        let file = w.file(1, &vec![7; PAGES * page]);
        let mut bytes = vec![0; PAGES * page];
        let read = w.finish(0, 0, PAGES * page, |at, len| {
            Ok(file.read(at as u64, &mut bytes[at..at + len]))
        });
        assert_eq!(read, Ok(PAGES * page));
        let map = |request: MapRequest<'_, 'static, _>| s.map(&request).unwrap().as_usize();
        let shared = map(MapRequest::shared(&file, 0, PAGES * page, Prot::RW));
        let private = map(MapRequest::private(&file, 0, PAGES * page, Prot::RW));
        let counted = |what: &str, path: (usize, usize), counter, verb: &dyn Fn()| {
            let before = w.mm().stats().get(counter);
            assert_eq!(count_paths(w.mm(), verb), path, "{what}");
            assert_eq!(w.mm().stats().get(counter), before + 1, "{what}");
        };
        let (fast, slow) = ((1, 0), (0, 1));
        let poke = |s, at, nth: usize| w.poke(0, s, at + nth * page, 9).unwrap();
        let peek = |at| assert_eq!(w.peek(0, &s, at), Ok(7));
        let drop_page = |at: usize, nth: usize| {
            let at = VirtAddr::new(at + nth * page);
            s.advise(at, page, Advice::DontNeed).unwrap();
        };
        let (load, store) = (Counter::FaultFile, Counter::FaultShared);
        counted("load, shared", fast, load, &|| peek(shared));
        counted("store, shared", fast, store, &|| poke(&s, shared, 1));
        drop_page(shared, 2);
        counted("first store, shared", fast, load, &|| poke(&s, shared, 2));
        counted("load, private", fast, load, &|| peek(private));
        let copy = Counter::CowCopy;
        counted("first store, private", slow, copy, &|| poke(&s, private, 1));
        counted("store, private", fast, copy, &|| poke(&s, private, 2));
        drop_page(private, 3);
        counted("store, private, not there", fast, copy, &|| {
            poke(&s, private, 3)
        });
        let child = s.fork().unwrap();
        counted("copy", fast, copy, &|| poke(&child, private, 1));
        counted("reuse", fast, Counter::CowReuse, &|| poke(&s, private, 1));
        drop((s, child, file));
        w.assert_empty();
    });
}

/// A fault is answered while a writer holds the space lock, in the middle of
/// mapping a device elsewhere: it takes no space lock.
#[test]
fn a_fault_does_not_wait_for_a_writer_of_the_space() {
    on_every_machine(|machine| {
        let page_size = machine.page_size();
        let w = machine.world(2048, 2, 1);
        let s = w.space();
        let at = FIRST * page_size;
        let area = MapRequest::anonymous(8 * page_size, Prot::RW).fixed(VirtAddr::new(at));
        s.map(&area).unwrap();
        w.poke(0, &s, at, 1).unwrap();
        let answered = Arc::new(AtomicUsize::new(0));
        let (other, count) = (s.clone(), answered.clone());
        // The first frame that the map needs is a table's, under the space lock.
        w.platform().interrupt_nth(1, move || {
            let fault = Fault {
                addr: VirtAddr::new(at + page_size),
                access: Access::Write,
                mode: Mode::User,
            };
            let outcome = on_cpu(1, || other.fault(&fault));
            assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
            count.fetch_add(1, Ordering::SeqCst);
        });
        let device = Backing::Device {
            pfn: Pfn::new(0x4000),
            mem: MemType::Device,
        };
        let area = MapRequest {
            backing: device,
            ..MapRequest::anonymous(4 * page_size, Prot::RW).fixed(VirtAddr::new(2 * at))
        };
        s.map(&area).unwrap();
        assert_eq!(
            answered.load(Ordering::SeqCst),
            1,
            "in the middle of the map"
        );
        assert!(w.peek(1, &s, at + page_size).is_ok());
        drop(s);
        w.assert_empty();
    });
}

/// Machines that remember invalid entries flush after they map: in the middle
/// of that the page is there already, and may be dropped.
#[test]
fn a_page_is_counted_before_it_can_be_dropped() {
    on_every_machine(|machine| {
        let page_size = machine.page_size();
        let w = machine.world(1024, 1, 1);
        let s = w.space();
        let file = w.file(1, &vec![1; page_size]);
        let areas = [
            MapRequest::anonymous(page_size, Prot::RW),
            MapRequest::private(&file, 0, page_size, Prot::RW),
        ];
        for area in areas {
            let at = s.map(&area).unwrap();
            for access in [Access::Read, Access::Write] {
                // Whatever has to be read is read, and the area has its anon_vma.
                w.poke(0, &s, at.as_usize(), 1).unwrap();
                s.advise(at, page_size, Advice::DontNeed).unwrap();
                let other = s.clone();
                w.platform().interrupt_flush(move || {
                    let _dropped = other.advise(at, page_size, Advice::DontNeed);
                });
                let fault = Fault {
                    addr: at,
                    access,
                    mode: Mode::User,
                };
                let outcome = s.fault(&fault);
                assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
                s.advise(at, page_size, Advice::DontNeed).unwrap();
                assert_eq!((s.counts().anon.get(), s.counts().file.get()), (0, 0));
            }
            s.unmap(at, page_size).unwrap();
        }
        w.platform().interrupt_flush(|| ());
        drop((s, file));
        w.assert_empty();
    });
}

/// Each CPU counts on its own; who reads sums over all, with those that the
/// machine was not told of.
#[test]
fn what_happened_on_every_cpu_is_counted() {
    on_every_machine(|machine| {
        let page_size = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let s = w.space();
        let at = FIRST * page_size;
        let area = MapRequest::anonymous(8 * page_size, Prot::RW).fixed(VirtAddr::new(at));
        s.map(&area).unwrap();
        w.poke(0, &s, at, 1).unwrap();
        let counted = count_paths(w.mm(), || {
            for cpu in 0..3 {
                let fault = Fault {
                    addr: VirtAddr::new(at + (cpu + 1) * page_size),
                    access: Access::Write,
                    mode: Mode::User,
                };
                let outcome = on_cpu(cpu, || s.fault(&fault));
                assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
            }
        });
        assert_eq!(counted, (3, 0));
        let anon = w.mm().stats().get(Counter::FaultAnon);
        assert_eq!(anon, 4, "the first too");
        let text = w.mm().stats().to_string();
        assert!(text.contains("         4  faults: anonymous\n"), "{text}");
        drop(s);
        w.assert_empty();
    });
}
