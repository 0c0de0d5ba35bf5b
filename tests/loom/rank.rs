//! The claims, for the checker of lock ranks: two verbs on three CPUs, which take the same locks.
//!
//! - `who_keeps_the_order_is_let_in`: a verb that takes locks in their order, tries others, and
//!   releases them in any, is never refused, though it goes to another CPU wherever it may be
//!   preempted: not while it holds an inner lock. No CPU counts what is held on another.
//! - `who_breaks_the_order_is_refused`: in every schedule, and before it waits: also while another
//!   verb holds what it asks for, and waits for what it holds itself.
//!
//! Shown to fail when a release takes another rank off, when a lock that is only tried leaves
//! preemption on, when a rank is noted once the lock is there, and when a rank is compared with the
//! outermost one alone.
#![cfg(loom)]

mod explore;
mod machine;

use explore::exhaustively;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use machine::{Machine, be_cpu};
use mm_core::cx::Cx;
use mm_core::page::Frames;
use mm_core::platform::Platform;
use mm_core::sync::{Class, Mutex, RwLock};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

/// An outer lock, two inner ones of a class, and one more for each verb.
struct Locks {
    frames: Frames<Machine>,
    space: RwLock<()>,
    pools: [Mutex<()>; 2],
    own: [Mutex<()>; 2],
    /// The CPU that runs no verb.
    idle: AtomicUsize,
}

impl Locks {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            frames: Machine::boot(8),
            space: RwLock::new(Class::Space, ()),
            pools: [(); 2].map(|()| Mutex::new(Class::Pool, ())),
            own: [(); 2].map(|()| Mutex::new(Class::FrameCache, ())),
            idle: AtomicUsize::new(2),
        })
    }

    /// How many hold preemption off on this CPU.
    fn pinned(&self) -> usize {
        let machine = self.frames.platform();
        machine.preempt_offs(machine.cpu())
    }

    /// Preempts the verb where that is allowed: it goes on on another CPU.
    fn preempt(&self) {
        if self.pinned() == 0 {
            let cpu = self.frames.platform().cpu();
            be_cpu(self.idle.swap(cpu, Ordering::Relaxed));
        }
    }

    /// Checks that the verb holds so many inner locks, and stays where it is for that long.
    fn stays(&self, cx: &Cx<'_, Machine>, inner: usize) {
        let cpu = self.frames.platform().cpu();
        self.preempt();
        let moved = self.frames.platform().cpu() != cpu;
        assert_eq!((moved, self.pinned()), (inner == 0, inner));
        assert_eq!(cx.holds_inner(), inner > 0);
    }
}

/// Runs `one` on CPU 1 while `two` runs on CPU 0.
fn both(one: impl FnOnce(&Locks) + Send + 'static, two: impl FnOnce(&Locks)) {
    let locks = Locks::new();
    let other = Arc::clone(&locks);
    let thread = thread::spawn(move || {
        be_cpu(1);
        one(&other);
    });
    two(&locks);
    thread.join().unwrap();
    let machine = locks.frames.platform();
    assert_eq!([0, 1, 2].map(|cpu| machine.preempt_offs(cpu)), [0; 3]);
}

#[test]
fn who_keeps_the_order_is_let_in() {
    fn verb(locks: &Locks, own: &Mutex<()>) {
        let cx = Cx::new(&locks.frames);
        let space = locks.space.read(&cx, 1);
        let low = locks.pools[0].lock(&cx, 1);
        let high = locks.pools[1].lock(&cx, 2);
        locks.stays(&cx, 2);
        drop(low);
        locks.stays(&cx, 1);
        drop(high);
        let own = own.lock(&cx, 1);
        // Below what is held. Nobody who has it waits for that: loom may let a try wait, too.
        let tried = locks.pools[0].try_lock(&cx, 1);
        drop(own);
        locks.stays(&cx, usize::from(tried.is_some()));
        drop(tried);
        let low = locks.pools[0].lock(&cx, 1);
        drop((space, low));
        locks.stays(&cx, 0);
    }
    exhaustively(|| both(|l| verb(l, &l.own[1]), |l| verb(l, &l.own[0])));
}

/// Keeps refusals, of which each run has one, out of what a test prints.
fn expect_refusals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if !is_refusal(panic.payload()) {
                print(panic);
            }
        }));
    });
}

fn is_refusal(payload: &(dyn std::any::Any + Send)) -> bool {
    let text = payload.downcast_ref::<String>();
    text.is_some_and(|text| text.starts_with("lock order: "))
}

#[test]
fn who_breaks_the_order_is_refused() {
    expect_refusals();
    let keeps = |locks: &Locks| {
        let cx = Cx::new(&locks.frames);
        let low = locks.pools[0].lock(&cx, 1);
        let high = locks.pools[1].lock(&cx, 2);
        drop((low, high));
    };
    let breaks = |locks: &Locks| {
        let cx = Cx::new(&locks.frames);
        let space = locks.space.read(&cx, 1);
        let high = locks.pools[1].lock(&cx, 2);
        let taken = catch_unwind(AssertUnwindSafe(|| drop(locks.pools[0].lock(&cx, 1))));
        assert!(
            taken.is_err_and(|panic| is_refusal(&*panic)),
            "it was let in"
        );
        locks.stays(&cx, 1);
        drop(high);
        locks.stays(&cx, 0);
        drop(space);
    };
    exhaustively(move || both(keeps, breaks));
}
