//! Frames of devices in user areas: nobody's to count, copy or free.
//!
//! Their leaves are marked `SPECIAL`, and stay so whatever is done with them:
//! protected to nothing and back, forked, stored to, unmapped. The record that
//! such a frame may have is somebody else's: here the kernel's, who allocated
//! it and shows it to programs.

use mm_core::addr::{Pfn, VirtAddr};
use mm_core::error::MmError;
use mm_core::fault::{Fault, FaultOutcome, Mode, Signal};
use mm_core::format::{AttrFlags, Attrs, Entry, PageTableFormat, TableOwner};
use mm_core::page::Kind;
use mm_core::platform::{PhysMemory, Platform};
use mm_core::prot::{Access, MemType, Prot};
use mm_core::space::{Advice, Backing, MapFlags, MapRequest};
use mm_core::stats::Counter;
use mm_core::table::PageTable;
use mm_testkit::format::AnyFormat;
use mm_testkit::machine::on_every_machine;
use mm_testkit::platform::TestPlatform;
use mm_testkit::world::{Space, World};

type Request = MapRequest<'static, 'static, TestPlatform<AnyFormat>>;

/// A frame outside of all RAM.
const OUTSIDE: Pfn = Pfn::new(0x4000);

fn device(pfn: Pfn, len: usize, prot: Prot) -> Request {
    let mem = MemType::WriteBack;
    MapRequest {
        backing: Backing::Device { pfn, mem },
        ..MapRequest::anonymous(len, prot)
    }
}

fn entry(s: &Space, at: VirtAddr) -> Entry {
    s.entry(at.vpn(s.mm().frames().page_shift()))
}

/// The frame and rights of a leaf that nobody counts; some hardware executes
/// what may be loaded.
fn special(s: &Space, at: VirtAddr) -> (Pfn, Prot) {
    match entry(s, at) {
        Entry::Leaf { pfn, attrs } if attrs.flags.contains(AttrFlags::SPECIAL) => {
            (pfn, attrs.prot & Prot::RW)
        }
        other => panic!("{other:?}"),
    }
}

fn access(
    s: &Space,
    addr: VirtAddr,
    access: Access,
) -> FaultOutcome<'static, TestPlatform<AnyFormat>> {
    let mode = Mode::User;
    s.fault(&Fault { addr, access, mode })
}

/// The kernel's frame, whose only reference is the kernel's.
fn assert_kernels(w: &World, ram: Pfn, what: &str) {
    let page = w.mm().frames().page(ram).unwrap();
    assert_eq!((page.kind(), page.refs()), (Kind::Kernel, 1), "{what}");
}

#[test]
fn a_device_that_was_prot_none_stays_the_kernels() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let cx = w.mm().cx();
        let ram = w.mm().frames().alloc(&cx, 0).unwrap();
        for flags in [MapFlags::SHARED, MapFlags::empty()] {
            let s = w.space();
            let at = s.map(&device(ram, page, Prot::RW).with(flags)).unwrap();
            w.poke(0, &s, at.as_usize(), 1).unwrap();
            s.protect(at, page, Prot::NONE).unwrap();
            let child = s.fork().unwrap();
            w.check([&s, &child]).unwrap();
            child.unmap(at, page).unwrap();
            assert_kernels(&w, ram, "a fork's child unmapped it");
            // Back at once where the rights say it all, else by a fault.
            s.protect(at, page, Prot::EXEC).unwrap();
            assert!(matches!(
                access(&s, at, Access::Exec),
                FaultOutcome::Resolved(_)
            ));
            assert_eq!(special(&s, at).0, ram);
            s.protect(at, page, Prot::NONE).unwrap();
            s.protect(at, page, Prot::READ).unwrap();
            assert_eq!(special(&s, at).0, ram);
            assert_eq!(w.peek(0, &s, at.as_usize()), Ok(1));
            s.protect(at, page, Prot::NONE).unwrap();
            w.check([&s, &child]).unwrap();
            s.unmap(at, page).unwrap();
            assert_kernels(&w, ram, "munmap freed a frame that the kernel uses");
            drop((s, child));
        }
        w.mm().frames().free(&cx, ram).unwrap();
        drop(cx);
        w.assert_empty();
    });
}

/// A kernel may enter a frame of its own into a table, whose entry then holds one
/// reference and gives it back; so does the copy that a fork makes of it.
#[test]
fn a_kernels_frame_that_an_entry_counts_is_counted_by_a_forks_too() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 3, 1);
        let cx = w.mm().cx();
        let ram = w.mm().frames().alloc(&cx, 0).unwrap();
        let record = w.mm().frames().page(ram).unwrap();
        w.platform().memory().zero(ram, 0);
        let s = w.space();
        // With a page of its own the area has entries that fork copies.
        let at = s.map(&MapRequest::anonymous(2 * page, Prot::RW)).unwrap();
        w.poke(0, &s, at.as_usize(), 1).unwrap();
        w.run(2, &s);
        let root = w.tlbs().contents(2).0.unwrap().root;
        w.idle(2);
        let table = PageTable::view(&cx, root, TableOwner::User, s.id());
        let attrs = Attrs::user(Prot::READ).with(AttrFlags::ACCESSED);
        let word = w.platform().format().encode_leaf(ram, attrs, 1).unwrap();
        let second = at.vpn(w.page_shift()).saturating_add(1);
        let leaf = table.lock_leaf(second).unwrap();
        let _nobody_looked_there = leaf.install(second, word);
        drop(leaf);
        for _ in 0..2 {
            let child = s.fork().unwrap();
            assert_eq!((record.kind(), record.refs()), (Kind::Kernel, 2));
            assert_eq!(w.peek(1, &child, at.as_usize() + page), Ok(0));
            w.idle(1);
            drop(child);
            assert_kernels(&w, ram, "the child's entry is gone");
        }
        w.idle(0);
        drop((s, cx));
        w.assert_empty();
    });
}

/// What is mapped with no rights at all comes when there are some.
#[test]
fn a_device_may_be_mapped_before_it_is_allowed() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let s = w.space();
        let pages = 3;
        let at = s.map(&device(OUTSIDE, pages * page, Prot::NONE)).unwrap();
        let outcome = access(&s, at, Access::Read);
        assert!(matches!(
            outcome,
            FaultOutcome::Signal(Signal::SegvAccErr(_))
        ));
        s.protect(at, pages * page, Prot::RW).unwrap();
        for i in 0..pages {
            let at = VirtAddr::new(at.as_usize() + i * page);
            assert_eq!(special(&s, at).0, OUTSIDE.saturating_add(i as u64));
        }
        w.check([&s]).unwrap();
        drop(s);
        w.assert_empty();
    });
}

/// The direct map may hold RAM only, and a cache operation through it would be
/// an abort of the kernel: of a device the library's RAM alone is made visible.
#[test]
fn only_ram_is_made_visible_to_fetches() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let cx = w.mm().cx();
        let ram = w.mm().frames().alloc(&cx, 0).unwrap();
        let s = w.space();
        w.platform().take_log();
        for (pfn, synced) in [(OUTSIDE, &[][..]), (ram, &[ram])] {
            let at = s.map(&device(pfn, page, Prot::RX)).unwrap();
            assert_eq!(special(&s, at).0, pfn);
            assert_eq!(w.platform().take_log().synced, synced);
        }
        drop(s);
        w.mm().frames().free(&cx, ram).unwrap();
        drop(cx);
        w.assert_empty();
    });
}

/// Outside of RAM there is nothing that could be read and copied.
#[test]
fn a_store_to_a_private_device_copies_nothing() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let s = w.space();
        let at = s.map(&device(OUTSIDE, page, Prot::READ)).unwrap();
        for _ in 0..2 {
            s.protect(at, page, Prot::RW).unwrap();
            let outcome = access(&s, at, Access::Write);
            assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
            assert_eq!(special(&s, at), (OUTSIDE, Prot::RW));
            assert_eq!(s.counts().anon.get(), 0);
            w.check([&s]).unwrap();
            s.protect(at, page, Prot::NONE).unwrap();
        }
        assert_eq!(w.mm().stats().get(Counter::CowCopy), 0);
        drop(s);
        w.assert_empty();
    });
}

/// A device is one for all who map it, also privately; nothing of it is left.
#[test]
fn a_private_device_is_the_same_before_and_after_a_fork() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let cx = w.mm().cx();
        let ram = w.mm().frames().alloc(&cx, 0).unwrap();
        let s = w.space();
        let at = s.map(&device(ram, page, Prot::READ)).unwrap();
        s.protect(at, page, Prot::RW).unwrap();
        w.poke(0, &s, at.as_usize(), 1).unwrap();
        let child = s.fork().unwrap();
        w.poke(1, &child, at.as_usize(), 2).unwrap();
        assert_eq!(w.peek(0, &s, at.as_usize()), Ok(2));
        assert_eq!(
            (special(&s, at), special(&child, at)),
            ((ram, Prot::RW), (ram, Prot::RW))
        );
        w.check([&s, &child]).unwrap();
        for s in [&s, &child] {
            s.protect(at, page, Prot::NONE).unwrap();
            s.protect(at, page, Prot::READ).unwrap();
        }
        drop((s, child));
        assert_kernels(&w, ram, "two spaces are gone");
        w.mm().frames().free(&cx, ram).unwrap();
        drop(cx);
        w.assert_empty();
    });
}

/// One further, the number would begin at zero: frames of the kernel's.
#[test]
fn a_device_past_the_last_frame_is_refused() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let s = w.space();
        // An area counts its pages in a `usize`, frames beyond that have no device.
        let last = machine.last_frame().min(Pfn::new(usize::MAX as u64));
        for prot in [Prot::RW, Prot::NONE] {
            assert_eq!(
                s.map(&device(last, 2 * page, prot)),
                Err(MmError::NotSupported)
            );
            assert_eq!(s.areas().count(), 0);
            let at = s.map(&device(last, page, prot)).unwrap();
            match entry(&s, at) {
                Entry::Leaf { pfn, .. } => assert_eq!(pfn, last),
                Entry::NonPresent(np) => assert_eq!(np.pfn(), Some(last)),
                other => panic!("{other:?}"),
            }
            s.unmap(at, page).unwrap();
        }
        drop(s);
        w.assert_empty();
    });
}

/// The library cannot reach what is no RAM, and says so at once.
#[test]
fn user_copies_do_not_touch_devices_outside_of_ram() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let s = w.space();
        let at = s.map(&device(OUTSIDE, page, Prot::RW)).unwrap();
        let mut bytes = [0; 4];
        let bad = Some(MmError::Fault(at));
        assert_eq!(s.read(at, &mut bytes).err(), bad);
        assert_eq!(s.write(at, &bytes).err(), bad);
        assert_eq!(s.load_u32(at).err(), bad);
        let faults = w.mm().stats().get(Counter::FaultSpurious);
        assert_eq!(faults, 0, "a fault makes no RAM of it");
        drop(s);
        w.assert_empty();
    });
}

/// madvise(2): only private anonymous memory can be wiped.
#[test]
fn a_device_is_not_wiped_on_fork() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(1024, 2, 1);
        let s = w.space();
        for flags in [MapFlags::SHARED, MapFlags::empty()] {
            let at = s.map(&device(OUTSIDE, page, Prot::RW).with(flags)).unwrap();
            let wiped = s.advise(at, page, Advice::WipeOnFork);
            assert_eq!(wiped, Err(MmError::Invalid(at)));
        }
        drop(s);
        w.assert_empty();
    });
}
