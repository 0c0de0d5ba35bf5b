//! Executable entries are published only after `sync_code` since the last
//! write through the library: one test for each way around that.

use mm_core::addr::{Pfn, VirtAddr, Vpn};
use mm_core::format::{Attrs, Entry, PageTableFormat};
use mm_core::prot::Prot;
use mm_core::space::MapRequest;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::world::{Space, World};

/// Where the areas of these tests begin, in pages.
const FIRST: usize = 0x400;

fn frame(s: &Space, page: usize) -> Option<(Pfn, Prot)> {
    match s.entry(Vpn::new(FIRST + page)) {
        Entry::Leaf { pfn, attrs } => Some((pfn, attrs.prot)),
        _ => None,
    }
}

/// Fetches from a page; says whether its frame was made visible for that.
fn fetch_syncs(w: &World, machine: &Machine, s: &Space, page: usize) -> bool {
    w.platform().take_log();
    w.fetch(0, s, (FIRST + page) * machine.page_size()).unwrap();
    let (pfn, prot) = frame(s, page).unwrap();
    assert!(prot.contains(Prot::EXEC));
    w.platform().take_log().synced.contains(&pfn)
}

fn at(machine: &Machine, page: usize) -> VirtAddr {
    VirtAddr::new((FIRST + page) * machine.page_size())
}

/// A page that the kernel wrote to, write-protected by fork, in an area that
/// becomes executable: a store gives back WRITE and not EXEC.
#[test]
fn a_store_does_not_publish_code_that_nobody_made_visible() {
    on_every_machine(|machine| {
        if !has_exec(machine) {
            return;
        }
        let size = machine.page_size();
        let w = machine.world(1024, 1, 1);
        let s = w.space();
        let area = MapRequest::anonymous(size, Prot::RW).fixed(at(machine, 0));
        s.map(&area).unwrap();
        assert_eq!(s.write(at(machine, 0), &[1, 2, 3]).unwrap().done, 3);
        drop(s.fork().unwrap());
        s.protect(at(machine, 0), size, Prot::RWX).unwrap();
        w.platform().take_log();
        w.poke(0, &s, FIRST * size, 7).unwrap();
        let (pfn, prot) = frame(&s, 0).unwrap();
        let synced = w.platform().take_log().synced.contains(&pfn);
        assert!(synced || !prot.contains(Prot::EXEC), "{prot:?}");
        assert!(synced || fetch_syncs(&w, machine, &s, 0));
        drop(s);
        w.assert_empty();
    });
}

/// Returns whether entries can say that a page is not to be executed: x86 had
/// no such bit at first, and its caches are coherent.
fn has_exec(machine: &Machine) -> bool {
    let format = machine.format();
    let word = format.encode_leaf(Pfn::new(1), Attrs::user(Prot::READ), 1);
    let can = matches!(
        format.decode(word.unwrap(), 1),
        Entry::Leaf { attrs, .. } if !attrs.prot.contains(Prot::EXEC)
    );
    if !can {
        machine.skip("every page can be executed");
    }
    can
}

/// A cached page that is executed in the parent and then written to by
/// write(2): the child gets an entry that fetches fault on.
#[test]
fn a_fork_does_not_publish_code_that_nobody_made_visible() {
    on_every_machine(|machine| {
        if !has_exec(machine) {
            return;
        }
        let size = machine.page_size();
        let w = machine.world(1024, 1, 1);
        let file = w.file(1, &vec![5; 2 * size]);
        let s = w.space();
        let area = MapRequest::private(&file, 0, 2 * size, Prot::RWX).fixed(at(machine, 0));
        s.map(&area).unwrap();
        // A page of its own, so that the entries are copied.
        w.poke(0, &s, (FIRST + 1) * size, 7).unwrap();
        w.fetch(0, &s, FIRST * size).unwrap();
        assert_eq!(file.write(0, &[9; 16]).done, 16);
        let child = s.fork().unwrap();
        let hidden = frame(&child, 0).is_none_or(|(_, prot)| !prot.contains(Prot::EXEC));
        assert!(hidden, "{:?}", frame(&child, 0));
        assert!(fetch_syncs(&w, machine, &child, 0));
        assert!(!fetch_syncs(&w, machine, &child, 0), "once is enough");
        drop((s, child, file));
        w.assert_empty();
    });
}

/// RX, written to as RW (by the program, by the kernel), RX again.
#[test]
fn rights_that_go_and_come_back_make_code_visible_again() {
    on_every_machine(|machine| {
        if !has_exec(machine) {
            return;
        }
        let size = machine.page_size();
        let w = machine.world(1024, 1, 1);
        let s = w.space();
        let area = MapRequest::anonymous(size, Prot::RX).fixed(at(machine, 0));
        s.map(&area).unwrap();
        type Writer = fn(&World, &Machine, &Space);
        let writers: [Writer; 2] = [
            |w, m, s| w.poke(0, s, FIRST * m.page_size(), 7).unwrap(),
            |_, m, s| assert_eq!(s.write(at(m, 0), &[1]).unwrap().done, 1),
        ];
        for detour in [Prot::RW, Prot::NONE] {
            for write in writers {
                s.protect(at(machine, 0), size, Prot::RW).unwrap();
                write(&w, machine, &s);
                s.protect(at(machine, 0), size, detour).unwrap();
                s.protect(at(machine, 0), size, Prot::RX).unwrap();
                assert!(fetch_syncs(&w, machine, &s, 0), "by way of {detour:?}");
            }
        }
        drop(s);
        w.assert_empty();
    });
}
