//! Faults overlap: one is answered in the middle of another.
//!
//! The shortcut "one big lock" passes every other test; here the second fault
//! would wait for ever, and the test platform ends such waits with a panic.

use mm_core::addr::VirtAddr;
use mm_core::fault::{Fault, FaultOutcome, Mode};
use mm_core::prot::{Access, Prot};
use mm_core::space::MapRequest;
use mm_core::sync::Class;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::platform::on_cpu;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Two pages far from each other: no table between them but the upper ones.
const FIRST: usize = 0x40000;
const SECOND: usize = 0x80000;

/// Lets a store to page `second` fault in the middle of a store to page `first`.
fn overlap(machine: &Machine, first: usize, second: usize) {
    let page = machine.page_size();
    let (first, second) = (first * page, second * page);
    let w = machine.world(2048, 2, 1);
    let s = w.space();
    for at in [FIRST * page, SECOND * page] {
        let area = MapRequest::anonymous(8 * page, Prot::RW).fixed(VirtAddr::new(at));
        s.map(&area).unwrap();
        // Both areas have their anon_vma and their table.
        w.poke(0, &s, at + 7 * page, 1).unwrap();
    }
    let answered = Arc::new(AtomicUsize::new(0));
    let (other, count) = (s.clone(), answered.clone());
    w.platform().interrupt_nth(1, move || {
        let fault = Fault {
            addr: VirtAddr::new(second),
            access: Access::Write,
            mode: Mode::User,
        };
        let outcome = on_cpu(1, || other.fault(&fault));
        assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
        count.fetch_add(1, Ordering::SeqCst);
    });
    w.poke(0, &s, first, 1).unwrap();
    assert_eq!(
        answered.load(Ordering::SeqCst),
        1,
        "the second fault came inside the first"
    );
    w.poke(1, &s, second, 2).unwrap();
    assert_eq!(w.peek(0, &s, second), Ok(2));
    drop(s);
    w.assert_empty();
}

#[test]
fn faults_on_two_areas_overlap() {
    on_every_machine(|machine| {
        overlap(machine, FIRST, SECOND);
    });
}

#[test]
fn faults_on_two_pages_of_one_area_overlap() {
    on_every_machine(|machine| {
        overlap(machine, FIRST, FIRST + 1);
    });
}

/// H3: the same page, twice at once: one frame is kept, none is lost.
#[test]
fn h3_faults_on_one_page_overlap() {
    on_every_machine(|machine| {
        overlap(machine, FIRST, FIRST);
    });
}

/// The locks of a first store to a page, in order: one area, one table at a
/// time, one frame, and no space. Nothing that another fault on another page
/// would wait for but the buddy allocator's few instructions.
#[test]
fn the_locks_of_a_fault_are_few_and_known() {
    on_every_machine(|machine| {
        let page = machine.page_size();
        let w = machine.world(2048, 1, 1);
        let s = w.space();
        let at = FIRST * page;
        let area = MapRequest::anonymous(8 * page, Prot::RW).fixed(VirtAddr::new(at));
        s.map(&area).unwrap();
        w.poke(0, &s, at, 1).unwrap();
        w.platform().take_log();
        w.platform().log_locks();
        let fault = Fault {
            addr: VirtAddr::new(at + page),
            access: Access::Write,
            mode: Mode::User,
        };
        let outcome = s.fault(&fault);
        assert!(matches!(outcome, FaultOutcome::Resolved(_)), "{outcome:?}");
        let locks = w.platform().take_log().locks;
        let classes: Vec<Class> = locks.iter().map(|rank| rank.class).collect();
        let want = [
            Class::Vma,
            Class::Table,
            Class::FrameCache,
            Class::Table,
            Class::Present,
        ];
        assert_eq!(classes, want, "{locks:?}");
        assert_eq!(
            locks[1], locks[3],
            "the leaf table, looked at and then filled"
        );
        drop(s);
        w.assert_empty();
    });
}
