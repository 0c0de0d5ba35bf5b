//! Memory that counts as committed: what asks whether it could be had, for how much, and what a
//! refusal leaves as it was (Linux 6.18 with `vm.overcommit_memory` 0, tried).

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::prot::Prot;
use mm_core::space::{MapFlags, MapRequest, RemapFlags};
use mm_testkit::machine::on_every_machine;
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{Space, World, page_size};

const BASE: usize = 0x400;

fn at(s: &Space, n: usize) -> VirtAddr {
    VirtAddr::new((BASE + n) * page_size(s))
}

fn len(s: &Space, pages: usize) -> usize {
    pages * page_size(s)
}

/// Runs a test where 8 pages may be committed at once.
fn with_world(test: impl Fn(&World, &Space)) {
    on_every_machine(|machine| {
        let w = machine.world(1024, 2, 0);
        let s = w.space();
        w.platform().set_committable(8);
        test(&w, &s);
        w.platform().set_committable(u64::MAX);
        w.check([&s]).unwrap();
        drop(s);
        w.assert_empty();
    });
}

fn map(s: &Space, n: usize, pages: usize, prot: Prot, flags: MapFlags) -> Result<(), MmError> {
    let area = MapRequest::anonymous(len(s, pages), prot).with(flags);
    s.map(&area.fixed(at(s, n))).map(drop)
}

#[test]
fn each_verb_that_commits_memory_asks_for_it() {
    with_world(|w, s| {
        let none = MapFlags::empty();
        let refused = Err(MmError::Limit);
        // Areas: private ones that may be written to, and shared memory.
        assert_eq!(map(s, 0, 8, Prot::RW, none), Ok(()));
        assert_eq!(map(s, 20, 9, Prot::RW, none), refused);
        assert_eq!(map(s, 20, 9, Prot::RW, MapFlags::SHARED), refused);
        assert_eq!(s.areas().count(), 1);
        let free = MapFlags::NO_RESERVE;
        assert_eq!(map(s, 20, 9, Prot::RW, free), Ok(()));
        assert_eq!(map(s, 40, 9, Prot::RW, free | MapFlags::SHARED), Ok(()));
        let file = w.file(1, &vec![7; len(s, 9)]);
        let shared = MapRequest::shared(&file, 0, len(s, 9), Prot::RW);
        assert_eq!(s.map(&shared.fixed(at(s, 60))), Ok(at(s, 60)));
        let private = |prot| MapRequest::private(&file, 0, len(s, 9), prot).fixed(at(s, 80));
        assert_eq!(s.map(&private(Prot::RW)).map(drop), refused);
        assert_eq!(s.map(&private(Prot::RX)), Ok(at(s, 80)));
        assert_eq!(s.areas().count(), 5);
        // Rights: what becomes writable.
        assert_eq!(s.protect(at(s, 80), len(s, 9), Prot::RW), refused);
        assert!(s.find(at(s, 80)).unwrap().prot() == Prot::RX);
        assert_eq!(s.protect(at(s, 80), len(s, 8), Prot::RW), Ok(()));
        assert_eq!(
            s.protect(at(s, 88), len(s, 1), Prot::RW),
            Ok(()),
            "the rest"
        );
        // Length, where it is and elsewhere.
        let longer = |pages: usize, flags| s.remap(at(s, 0), len(s, 8), len(s, pages), flags, None);
        assert_eq!(longer(17, RemapFlags::empty()), Err(MmError::Limit));
        assert_eq!(longer(30, RemapFlags::MAY_MOVE), Err(MmError::Limit));
        assert_eq!(s.find(at(s, 0)).unwrap().range.pages(), 8);
        assert_eq!(longer(16, RemapFlags::empty()), Ok(at(s, 0)));
    });
}

#[test]
fn heaps_stacks_and_children_ask_too() {
    with_world(|w, s| {
        s.set_brk_start(at(s, 0));
        assert_eq!(s.brk(Some(at(s, 9))), at(s, 0), "not so long");
        assert_eq!(s.brk(Some(at(s, 8))), at(s, 8));
        s.set_limits(mm_core::space::SpaceLimits {
            stack_guard: 0,
            ..s.limits()
        });
        assert_eq!(map(s, 60, 2, Prot::RW, MapFlags::GROWS_DOWN), Ok(()));
        let poke = |n: usize| w.poke(0, s, at(s, n).as_usize(), 1);
        assert!(poke(51).is_err(), "nine pages at once");
        assert_eq!(poke(52), Ok(()));
        assert_eq!(poke(44), Ok(()));
        // A child commits what its parent has, area by area: the stack has 18 pages by now.
        let failed = on_cpu(0, || s.fork()).map(drop);
        assert_eq!(failed, Err(MmError::OutOfMemory));
        w.platform().set_committable(18);
        let child = on_cpu(0, || s.fork()).unwrap();
        w.check([s, &child]).unwrap();
        w.idle(0);
    });
}
