//! D9: faults beside the exit, or the exec, of somebody who has the same space (CLONE_VM, vfork).
//!
//! One of the two runs; at the nth place where preemption is allowed the other one does all of
//! its own, for each n up to the last place (where there are hundreds, for some). Who stays has what it stored, and loses nothing
//! until it leaves, too: whoever is the last ends the space.

use mm_core::addr::VirtAddr;
use mm_core::prot::Prot;
use mm_core::space::MapRequest;
use mm_testkit::machine::on_every_machine;
use mm_testkit::platform::on_cpu;
use mm_testkit::world::{Space, World};
use std::sync::Arc;

const FIRST: usize = 0x400;
const PAGES: usize = 6;

/// Touches a page that is there, one that is not, and the file's; stores into all.
fn fault(w: &World, cpu: usize, s: &Space) {
    let page = w.page_size();
    for (n, held) in [(0, 1), (1, 0), (PAGES, 7), (PAGES + 1, 7)] {
        let at = (FIRST + n) * page;
        assert_eq!(w.peek(cpu, s, at), Ok(held));
        w.poke(cpu, s, at, 40 + n as u8).unwrap();
        assert_eq!(w.peek(cpu, s, at), Ok(40 + n as u8));
    }
}

/// Leaves the space on CPU 0: with nothing to run afterwards, or with a new space.
fn leave(w: &World, s: Space, execs: bool) {
    on_cpu(0, || {
        if !execs {
            w.idle(0);
            drop(s);
            return;
        }
        let new = w.space();
        let at = FIRST * w.page_size();
        let area = MapRequest::anonymous(w.page_size(), Prot::RW);
        new.map(&area.fixed(VirtAddr::new(at))).unwrap();
        w.run(0, &new);
        drop(s);
        assert_eq!(w.peek(0, &new, at), Ok(0), "nothing of the old space");
        w.poke(0, &new, at, 2).unwrap();
        w.idle(0);
        drop(new);
    });
}

#[test]
fn d9_faults_beside_exit_and_exec() {
    on_every_machine(|machine| {
        let w = Arc::new(machine.world(1024, 2, 0));
        let page = w.page_size();
        let file = w.file(1, &vec![7; PAGES * page]);
        for (execs, leaver_first) in [(false, true), (false, false), (true, true), (true, false)] {
            let mut nth = 1;
            loop {
                let s = w.space();
                let at = |n: usize| VirtAddr::new((FIRST + n) * page);
                let own = MapRequest::anonymous(PAGES * page, Prot::RW).fixed(at(0));
                s.map(&own).unwrap();
                let private = MapRequest::private(&file, 0, PAGES * page, Prot::RW);
                s.map(&private.fixed(at(PAGES))).unwrap();
                w.poke(0, &s, at(0).as_usize(), 1).unwrap();
                w.peek(1, &s, at(0).as_usize()).unwrap();
                let (leaves, stays, world) = (s.clone(), s, w.clone());
                // Whoever comes second is the last user, wherever that is in the other's way.
                if leaver_first {
                    w.platform().preempt_nth(nth, move || {
                        fault(&world, 1, &stays);
                        world.idle(1);
                        on_cpu(1, || drop(stays));
                    });
                    leave(&w, leaves, execs);
                } else {
                    w.platform()
                        .preempt_nth(nth, move || leave(&world, leaves, execs));
                    fault(&w, 1, &stays);
                    w.check([&stays]).unwrap();
                    w.idle(1);
                    on_cpu(1, || drop(stays));
                }
                let is_last = w.platform().preempt_no_more();
                w.idle(0);
                w.idle(1);
                w.check([]).unwrap();
                if is_last {
                    break;
                }
                // An exit goes through whole tables, which are long where pages are large.
                nth += 1 + nth / 8;
                assert!(nth < 100_000, "both end");
            }
        }
        drop(file);
        w.assert_empty();
    });
}
