//! The claim, for two CPUs with nodes of their own: what a CPU remembers after its
//! area's slab was drained leads to no node of it, though the area was found and
//! unmapped meanwhile.
#![cfg(loom)]

mod explore;
mod machine;
mod scene;

use explore::at_most;
use machine::{Machine, be_cpu};
use scene::{Done, PAGE, both, scene, store, va};

#[test]
fn remember_and_drain() {
    at_most(3, || {
        Machine::with_cpus(64, 2, |mm| {
            let s = scene(mm);
            let found = |s: scene::Space| {
                let found = store(&s, 2);
                s.unmap(va(1), 2 * PAGE).unwrap();
                found
            };
            let (found, ()) = both(&s, found, |_| mm.drain());
            assert_eq!(found, Done::Done);
            // Whoever follows a handle into what is no slab any more is told.
            Machine::dirty(mm.frames());
            be_cpu(1);
            assert_eq!(store(&s, 2), Done::NoArea);
            be_cpu(0);
        });
    });
}
