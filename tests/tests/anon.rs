//! Anonymous memory through the public API, on real words, MMU and TLBs.

use mm_core::addr::{Pfn, VirtAddr};
use mm_core::error::MmError;
use mm_core::fault::Signal;
use mm_core::format::PageTableFormat;
use mm_core::platform::PhysMemory;
use mm_core::prot::Prot;
use mm_core::space::{Advice, MapFlags, MapRequest};
use mm_core::stats::Counter;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::world::{Stopped, World};

fn world(machine: &Machine, seed: u64) -> World {
    machine.world(2048, 4, seed)
}

#[test]
fn first_touch_reads_zero_and_keeps_what_is_written() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 1);
        let s = w.space();
        let a = s
            .map(&MapRequest::anonymous(8 * page, Prot::RW))
            .unwrap()
            .as_usize();
        assert_eq!(w.peek(0, &s, a + 5), Ok(0));
        assert_eq!(w.mm().stats().get(Counter::FaultZero), 1);
        w.store(0, &s, a + page - 2, b"four").unwrap();
        let mut back = [0; 4];
        w.load(0, &s, a + page - 2, &mut back).unwrap();
        assert_eq!(&back, b"four");
        assert_eq!(s.counts().anon.get(), 2);
        s.unmap(VirtAddr::new(a), 8 * page).unwrap();
        assert_eq!(s.counts().anon.get(), 0);
        assert!(matches!(
            w.peek(0, &s, a),
            Err(Stopped::Signal(Signal::SegvMapErr(_)))
        ));
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn e2_fork_shares_until_one_side_writes() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 2);
        let parent = w.space();
        let a = parent
            .map(&MapRequest::anonymous(4 * page, Prot::RW))
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
    });
}

#[test]
fn e5_lesson_30_protect_never_makes_a_shared_frame_writable() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 3);
        let parent = w.space();
        let a = parent.map(&MapRequest::anonymous(page, Prot::RW)).unwrap();
        w.poke(0, &parent, a.as_usize(), 1).unwrap();
        let child = parent.fork().unwrap();
        for s in [&parent, &child] {
            s.protect(a, page, Prot::READ).unwrap();
            s.protect(a, page, Prot::NONE).unwrap();
            s.protect(a, page, Prot::RW).unwrap();
        }
        w.poke(1, &child, a.as_usize(), 2).unwrap();
        assert_eq!(w.peek(0, &parent, a.as_usize()), Ok(1));
        w.poke(0, &parent, a.as_usize(), 3).unwrap();
        assert_eq!(w.peek(1, &child, a.as_usize()), Ok(2));
        drop((parent, child));
        w.assert_empty();
    });
}

#[test]
fn protection_none_keeps_the_page_and_denies_it() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 4);
        let s = w.space();
        let a = s.map(&MapRequest::anonymous(4 * page, Prot::RW)).unwrap();
        w.poke(0, &s, a.as_usize() + page, 7).unwrap();
        s.protect(VirtAddr::new(a.as_usize() + page), page, Prot::NONE)
            .unwrap();
        let denied = w.peek(0, &s, a.as_usize() + page);
        assert!(
            matches!(denied, Err(Stopped::Signal(Signal::SegvAccErr(_)))),
            "{denied:?}"
        );
        assert_eq!(s.areas().count(), 3);
        s.protect(VirtAddr::new(a.as_usize() + page), page, Prot::RW)
            .unwrap();
        assert_eq!(w.peek(0, &s, a.as_usize() + page), Ok(7));
        assert_eq!(s.areas().count(), 1, "{}", s.maps());
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn d4_the_stack_grows_to_its_limit_and_keeps_its_guard() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 5);
        let s = w.space();
        let top = machine.user_end() / page / 8 * 7 * page;
        let stack = MapRequest::anonymous(2 * page, Prot::RW)
            .fixed(VirtAddr::new(top - 2 * page))
            .with(MapFlags::GROWS_DOWN);
        s.map(&stack).unwrap();
        w.poke(0, &s, top - 100 * page, 1).unwrap();
        assert_eq!(s.areas().count(), 1, "{}", s.maps());
        let limit = s.limits().stack;
        w.poke(0, &s, top - limit, 1).unwrap();
        let over = w.poke(0, &s, top - limit - page, 1);
        assert!(
            matches!(over, Err(Stopped::Signal(Signal::SegvMapErr(_)))),
            "{over:?}"
        );
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn brk_counts_bytes_and_maps_pages() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 6);
        let s = w.space();
        let heap = |bytes: usize| VirtAddr::new(0x600 * page + bytes);
        s.set_brk_start(heap(0x123));
        let low = heap(page + 1);
        assert_eq!(s.brk(None), heap(0x123));
        let high = heap(2 * page + 0x345);
        assert_eq!(s.brk(Some(high)), high);
        w.poke(0, &s, high.as_usize() - 1, 9).unwrap();
        assert_eq!(s.counts().total.get(), 2);
        assert_eq!(s.brk(Some(low)), low);
        assert_eq!(s.counts().total.get(), 1);
        assert_eq!(
            s.brk(Some(VirtAddr::new(0x500 * page))),
            low,
            "below the start"
        );
        s.map(&MapRequest::anonymous(page, Prot::READ).fixed(heap(4 * page)))
            .unwrap();
        assert_eq!(s.brk(Some(heap(9 * page))), low, "in the way");
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn a_space_in_a_dead_ones_node_has_no_heap() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 6);
        let dead = w.space();
        let (start, end) = (0x600 * page, 0x601 * page);
        dead.set_brk_start(VirtAddr::new(start));
        assert_eq!(dead.brk(Some(VirtAddr::new(end))).as_usize(), end);
        let id = dead.id();
        drop(dead);
        let s = w.space();
        assert_eq!(s.id(), id, "another node: nothing is tested");
        assert_eq!(s.brk(None).as_usize(), 0);
        assert_eq!(s.brk(Some(VirtAddr::new(end))).as_usize(), 0);
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn d8_user_copies_fault_in_and_never_leave_user_space() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 7);
        let s = w.space();
        let a = s.map(&MapRequest::anonymous(3 * page, Prot::RW)).unwrap();
        let text = vec![0x5a; 2 * page];
        let p = s.write(VirtAddr::new(a.as_usize() + 100), &text).unwrap();
        assert_eq!(p.done, text.len());
        assert_eq!(w.peek(0, &s, a.as_usize() + 100 + page), Ok(0x5a));
        let mut out = vec![0; 4 * page];
        let p = s.read(a, &mut out).unwrap();
        assert_eq!(p.done, 3 * page, "stops at the hole");
        let end = machine.user_end();
        for bad in [
            0usize,
            end - page,
            end,
            0usize.wrapping_sub(end),
            usize::MAX,
        ] {
            let r = s.read(VirtAddr::new(bad), &mut out[..8]);
            assert_eq!(r.unwrap_err(), MmError::Fault(VirtAddr::new(bad)));
            let r = s.write(VirtAddr::new(bad), &out[..8]);
            assert_eq!(r.unwrap_err(), MmError::Fault(VirtAddr::new(bad)));
        }
        s.protect(a, page, Prot::READ).unwrap();
        assert!(s.write(a, b"x").is_err());
        drop(s);
        w.assert_empty();
    });
}

#[test]
fn advice_dontneed_gives_zeros_again() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 8);
        let s = w.space();
        let a = s.map(&MapRequest::anonymous(3 * page, Prot::RW)).unwrap();
        w.poke(0, &s, a.as_usize(), 1).unwrap();
        s.advise(a, 3 * page, Advice::DontNeed).unwrap();
        assert_eq!(w.peek(0, &s, a.as_usize()), Ok(0));
        drop(s);
        w.assert_empty();
    });
}

/// What a store leaves alone is copied with the rest of the page.
#[test]
fn e2_e4_a_copy_has_every_byte_that_nobody_stored() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 10);
        let parent = w.space();
        let a = parent.map(&MapRequest::anonymous(page, Prot::RW));
        let a = a.unwrap().as_usize();
        let (first, last) = (a + 1, a + page - 1);
        w.poke(0, &parent, first, 1).unwrap();
        w.poke(0, &parent, last, 2).unwrap();
        let (child, third) = (parent.fork().unwrap(), parent.fork().unwrap());
        let both = |cpu, s| (w.peek(cpu, s, first), w.peek(cpu, s, last));
        w.poke(1, &child, first, 3).unwrap();
        assert_eq!(both(1, &child), (Ok(3), Ok(2)), "the child's copy");
        assert_eq!(both(0, &parent), (Ok(1), Ok(2)), "beside the child's copy");
        w.poke(0, &parent, last, 4).unwrap();
        assert_eq!(both(0, &parent), (Ok(1), Ok(4)), "the parent's copy");
        assert_eq!(w.mm().stats().get(Counter::CowCopy), 2);
        w.poke(2, &third, last, 5).unwrap();
        assert_eq!(both(2, &third), (Ok(1), Ok(5)), "what is used again");
        assert_eq!(w.mm().stats().get(Counter::CowReuse), 1);
        assert_eq!(both(0, &parent), (Ok(1), Ok(4)));
        assert_eq!(both(1, &child), (Ok(3), Ok(2)));
        drop((parent, child, third));
        w.assert_empty();
    });
}

/// CVE-2020-29374: a page that somebody else has a reference to, for a transfer maybe, is
/// copied although no other space maps it: what it is stored later is not for them.
#[test]
fn e9_a_page_that_is_held_is_copied_although_nobody_else_maps_it() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 11);
        let s = w.space();
        let a = s.map(&MapRequest::anonymous(page, Prot::RW)).unwrap();
        w.store(0, &s, a.as_usize(), b"old").unwrap();
        let frame = || Pfn::new(w.tlbs().remembered(0, a.vpn(w.page_shift()))[0].frame);
        let held = frame();
        let record = w.mm().frames().page(held).unwrap();
        drop(s.fork().unwrap());
        record.get_refs(1).unwrap();
        w.poke(0, &s, a.as_usize(), b'n').unwrap();
        assert_ne!(frame(), held);
        let count = |counter| w.mm().stats().get(counter);
        assert_eq!(count(Counter::CowCopy), 1);
        assert_eq!(count(Counter::CowReuse), 0);
        let mut seen = [0; 3];
        w.platform().arena().read(held, 0, &mut seen);
        assert_eq!(&seen, b"old", "to who holds it");
        w.load(0, &s, a.as_usize(), &mut seen).unwrap();
        assert_eq!(&seen, b"nld");
        assert_eq!((record.refs(), record.user().maps()), (1, 0));
        w.mm().frames().free(&w.mm().cx(), held).unwrap();
        drop(s);
        w.assert_empty();
    });
}

/// Every allocation of a fork fails once; each time nothing is left of the child.
#[test]
fn c3_fork_that_fails_leaves_the_parent_as_it_was() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = world(machine, 9);
        let parent = w.space();
        let mut at = Vec::new();
        for i in 0..6 {
            let prot = if i % 2 == 0 { Prot::RW } else { Prot::RWX };
            let a = parent
                .map(&MapRequest::anonymous(2 * page, prot))
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
    });
}

/// RAM on both sides of what leaves, roots or handles (256 GiB) can name: it is used up
/// to the last frame that can be, and then there is no memory.
#[test]
fn memory_on_both_sides_of_a_bound_is_used_up_and_comes_back() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let handles = (256 << 30) / page as u64;
        let format = machine.format();
        let leaves = format.leaf_reach().as_u64();
        let roots = format.table_reach(format.levels()).as_u64();
        let bound = handles.min(leaves).min(roots);
        let w = machine.world_at((bound - 512, 1024), 2, 3);
        let usable = if leaves == bound { 512 } else { 1024 };
        assert_eq!(w.mm().frame_stats().total, usable);
        for _ in 0..2 {
            let s = w.space();
            let free = w.mm().frames().free_frames();
            let a = s.map(&MapRequest::anonymous(1024 * page, Prot::RW));
            let a = a.unwrap().as_usize();
            let store = |i: usize| w.poke(i % 2, &s, a + i * page, 7);
            let stored = (0..1024).take_while(|&i| store(i).is_ok()).count();
            assert_eq!(store(stored), Err(Stopped::OutOfMemory));
            assert_eq!(w.mm().frames().free_frames(), 0);
            // Tables, nodes and the space have the rest.
            let rest = 32 + 1024 / format.entries(1);
            assert!(stored < free && stored + rest > free, "{stored} of {free}");
            // Who ends makes room for the next, wherever its frames lie.
            s.unmap(VirtAddr::new(a), stored / 2 * page).unwrap();
            assert_eq!(store(stored), Ok(()));
            w.idle(0);
            w.idle(1);
        }
        w.assert_empty();
    });
}
