//! Anonymous memory through the public API, on real words, MMU and TLBs.

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::fault::Signal;
use mm_core::prot::Prot;
use mm_core::space::{Advice, MapFlags, MapRequest};
use mm_core::stats::Counter;
use mm_testkit::mmu::LongModeWalker;
use mm_testkit::world::{Stopped, World};
use mm_x86_64::{FourLevel, Paging};

type X64 = World<Paging<FourLevel>, LongModeWalker>;

fn world(seed: u64) -> X64 {
    World::new(
        Paging::new(FourLevel),
        LongModeWalker::new(4),
        2048,
        4,
        seed,
    )
}

const PAGE: usize = 4096;

#[test]
fn first_touch_reads_zero_and_keeps_what_is_written() {
    let w = world(1);
    let s = w.space();
    let a = s
        .map(&MapRequest::anonymous(8 * PAGE, Prot::RW))
        .unwrap()
        .as_usize();
    assert_eq!(w.peek(0, &s, a + 5), Ok(0));
    assert_eq!(w.mm().stats().get(Counter::FaultZero), 1);
    w.store(0, &s, a + PAGE - 2, b"four").unwrap();
    let mut back = [0; 4];
    w.load(0, &s, a + PAGE - 2, &mut back).unwrap();
    assert_eq!(&back, b"four");
    assert_eq!(s.counts().anon.get(), 2);
    s.unmap(VirtAddr::new(a), 8 * PAGE).unwrap();
    assert_eq!(s.counts().anon.get(), 0);
    assert!(matches!(
        w.peek(0, &s, a),
        Err(Stopped::Signal(Signal::SegvMapErr(_)))
    ));
    drop(s);
    w.assert_empty();
}

#[test]
fn e2_fork_shares_until_one_side_writes() {
    let w = world(2);
    let parent = w.space();
    let a = parent
        .map(&MapRequest::anonymous(4 * PAGE, Prot::RW))
        .unwrap()
        .as_usize();
    w.store(0, &parent, a, b"parent").unwrap();
    let child = parent.fork().unwrap();
    let mut seen = [0; 6];
    w.load(1, &child, a, &mut seen).unwrap();
    assert_eq!(&seen, b"parent");
    w.store(1, &child, a, b"child!").unwrap();
    w.load(0, &parent, a, &mut seen).unwrap();
    assert_eq!(&seen, b"parent");
    assert_eq!(w.mm().stats().get(Counter::CowCopy), 1);
    w.store(0, &parent, a, b"again.").unwrap();
    assert_eq!(w.mm().stats().get(Counter::CowReuse), 1, "the child left");
    w.load(1, &child, a, &mut seen).unwrap();
    assert_eq!(&seen, b"child!");
    drop(parent);
    w.load(1, &child, a, &mut seen).unwrap();
    assert_eq!(&seen, b"child!");
    drop(child);
    w.assert_empty();
}

#[test]
fn e5_lesson_30_protect_never_makes_a_shared_frame_writable() {
    let w = world(3);
    let parent = w.space();
    let a = parent.map(&MapRequest::anonymous(PAGE, Prot::RW)).unwrap();
    w.poke(0, &parent, a.as_usize(), 1).unwrap();
    let child = parent.fork().unwrap();
    for s in [&parent, &child] {
        s.protect(a, PAGE, Prot::READ).unwrap();
        s.protect(a, PAGE, Prot::NONE).unwrap();
        s.protect(a, PAGE, Prot::RW).unwrap();
    }
    w.poke(1, &child, a.as_usize(), 2).unwrap();
    assert_eq!(w.peek(0, &parent, a.as_usize()), Ok(1));
    w.poke(0, &parent, a.as_usize(), 3).unwrap();
    assert_eq!(w.peek(1, &child, a.as_usize()), Ok(2));
    drop((parent, child));
    w.assert_empty();
}

#[test]
fn protection_none_keeps_the_page_and_denies_it() {
    let w = world(4);
    let s = w.space();
    let a = s.map(&MapRequest::anonymous(4 * PAGE, Prot::RW)).unwrap();
    w.poke(0, &s, a.as_usize() + PAGE, 7).unwrap();
    s.protect(VirtAddr::new(a.as_usize() + PAGE), PAGE, Prot::NONE)
        .unwrap();
    let denied = w.peek(0, &s, a.as_usize() + PAGE);
    assert!(
        matches!(denied, Err(Stopped::Signal(Signal::SegvAccErr(_)))),
        "{denied:?}"
    );
    assert_eq!(s.areas().count(), 3);
    s.protect(VirtAddr::new(a.as_usize() + PAGE), PAGE, Prot::RW)
        .unwrap();
    assert_eq!(w.peek(0, &s, a.as_usize() + PAGE), Ok(7));
    assert_eq!(s.areas().count(), 1, "{}", s.maps());
    drop(s);
    w.assert_empty();
}

#[test]
fn d4_the_stack_grows_to_its_limit_and_keeps_its_guard() {
    let w = world(5);
    let s = w.space();
    let top = 0x7000_0000_0000usize;
    let stack = MapRequest::anonymous(2 * PAGE, Prot::RW)
        .fixed(VirtAddr::new(top - 2 * PAGE))
        .with(MapFlags::GROWS_DOWN);
    s.map(&stack).unwrap();
    w.poke(0, &s, top - 100 * PAGE, 1).unwrap();
    assert_eq!(s.areas().count(), 1, "{}", s.maps());
    let limit = s.limits().stack;
    w.poke(0, &s, top - limit, 1).unwrap();
    let over = w.poke(0, &s, top - limit - PAGE, 1);
    assert!(
        matches!(over, Err(Stopped::Signal(Signal::SegvMapErr(_)))),
        "{over:?}"
    );
    drop(s);
    w.assert_empty();
}

#[test]
fn brk_counts_bytes_and_maps_pages() {
    let w = world(6);
    let s = w.space();
    s.set_brk_start(VirtAddr::new(0x60_0123));
    assert_eq!(s.brk(None).as_usize(), 0x60_0123);
    assert_eq!(s.brk(Some(VirtAddr::new(0x60_2345))).as_usize(), 0x60_2345);
    w.poke(0, &s, 0x60_2344, 9).unwrap();
    assert_eq!(s.counts().total.get(), 2);
    assert_eq!(s.brk(Some(VirtAddr::new(0x60_1001))).as_usize(), 0x60_1001);
    assert_eq!(s.counts().total.get(), 1);
    assert_eq!(
        s.brk(Some(VirtAddr::new(0x50_0000))).as_usize(),
        0x60_1001,
        "below the start"
    );
    s.map(&MapRequest::anonymous(PAGE, Prot::READ).fixed(VirtAddr::new(0x60_4000)))
        .unwrap();
    assert_eq!(
        s.brk(Some(VirtAddr::new(0x60_9000))).as_usize(),
        0x60_1001,
        "in the way"
    );
    drop(s);
    w.assert_empty();
}

#[test]
fn user_copies_fault_in_and_never_leave_user_space() {
    let w = world(7);
    let s = w.space();
    let a = s.map(&MapRequest::anonymous(3 * PAGE, Prot::RW)).unwrap();
    let text = vec![0x5a; 2 * PAGE];
    let p = s.write(VirtAddr::new(a.as_usize() + 100), &text).unwrap();
    assert_eq!(p.done, text.len());
    assert_eq!(w.peek(0, &s, a.as_usize() + 100 + PAGE), Ok(0x5a));
    let mut out = vec![0; 4 * PAGE];
    let p = s.read(a, &mut out).unwrap();
    assert_eq!(p.done, 3 * PAGE, "stops at the hole");
    for bad in [0usize, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, usize::MAX] {
        let r = s.read(VirtAddr::new(bad), &mut out[..8]);
        assert_eq!(r.unwrap_err(), MmError::Fault(VirtAddr::new(bad)));
        let r = s.write(VirtAddr::new(bad), &out[..8]);
        assert_eq!(r.unwrap_err(), MmError::Fault(VirtAddr::new(bad)));
    }
    s.protect(a, PAGE, Prot::READ).unwrap();
    assert!(s.write(a, b"x").is_err());
    drop(s);
    w.assert_empty();
}

#[test]
fn advice_dontneed_gives_zeros_again() {
    let w = world(8);
    let s = w.space();
    let a = s.map(&MapRequest::anonymous(3 * PAGE, Prot::RW)).unwrap();
    w.poke(0, &s, a.as_usize(), 1).unwrap();
    s.advise(a, 3 * PAGE, Advice::DontNeed).unwrap();
    assert_eq!(w.peek(0, &s, a.as_usize()), Ok(0));
    drop(s);
    w.assert_empty();
}

/// Every allocation of a fork fails once; each time nothing is left of the child.
#[test]
fn c3_fork_that_fails_leaves_the_parent_as_it_was() {
    let w = world(9);
    let parent = w.space();
    let mut at = Vec::new();
    for i in 0..6 {
        let prot = if i % 2 == 0 { Prot::RW } else { Prot::RWX };
        let a = parent
            .map(&MapRequest::anonymous(2 * PAGE, prot))
            .unwrap()
            .as_usize();
        w.poke(0, &parent, a, i as u8).unwrap();
        at.push(a);
    }
    let mut n = 0;
    loop {
        n += 1;
        w.platform().fail_nth(n);
        let child = parent.fork();
        w.platform().fail_none();
        for (i, &a) in at.iter().enumerate() {
            assert_eq!(w.peek(0, &parent, a), Ok(i as u8));
            w.poke(0, &parent, a + 1, n as u8).unwrap();
        }
        if child.is_ok() {
            break;
        }
        assert_eq!(child.unwrap_err(), MmError::OutOfMemory);
        assert_eq!(w.mm().usage().spaces, 1);
    }
    assert!(n > 6, "fork allocates, and each allocation was failed: {n}");
    drop(parent);
    w.assert_empty();
}
