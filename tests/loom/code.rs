//! The claim: who finds a page clean publishes no instructions that were
//! written before it looked and that fetches do not see.
//!
//! One writes to the page and says so; two make it visible at the same time;
//! the one who looks has seen that the write was over. The page is one number,
//! what fetches see of it another.
//!
//! Shown to fail: `code_written` leaves CODE_FRESH; `show_code` does not look
//! at CODE_SYNC (with two who show); it sets CODE_FRESH behind `sync`.
#![cfg(loom)]

mod explore;

use explore::at_most;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use mm_core::page::{Page, PageFlags};

struct Frame {
    page: Page,
    bytes: AtomicU32,
    fetched: AtomicU32,
    /// The writes that are over.
    over: AtomicU32,
}

impl Frame {
    fn show(&self) {
        let _again = self.page.show_code(|| {
            let now = self.bytes.load(Ordering::Acquire);
            // Others may see it earlier or later, never less of it.
            self.fetched.fetch_max(now, Ordering::AcqRel);
        });
    }

    fn write(&self, n: u32) {
        self.bytes.store(n, Ordering::Release);
        self.page.code_written();
        self.over.store(n, Ordering::Release);
    }

    fn publish(&self) {
        let over = self.over.load(Ordering::Acquire);
        if self.page.has(PageFlags::CODE_CLEAN) {
            let fetched = self.fetched.load(Ordering::Acquire);
            assert!(fetched >= over, "{over} was written, {fetched} is fetched");
        }
    }
}

/// One writes, `showers` show; who spawns them only waits, so that each order
/// of theirs costs as few preemptions as it can.
fn model(showers: usize) {
    // Three threads are explored up to two preemptions.
    let most = if showers > 1 { 2 } else { 3 };
    at_most(most, move || {
        let frame = Arc::new(Frame {
            page: Page::new(),
            bytes: AtomicU32::new(0),
            fetched: AtomicU32::new(0),
            over: AtomicU32::new(0),
        });
        let threads: Vec<_> = (0..=showers)
            .map(|i| {
                let frame = Arc::clone(&frame);
                thread::spawn(move || {
                    if i < showers {
                        frame.show();
                        frame.publish();
                    } else {
                        frame.write(1);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        frame.publish();
    });
}

#[test]
fn write_and_show() {
    model(1);
}

#[test]
fn write_and_two_who_show() {
    model(2);
}
