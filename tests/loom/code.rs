//! The claims:
//!
//! - `write_and_show`, `write_and_two_who_show`: who finds a page clean publishes no
//!   instructions that were written before it looked and that fetches do not see.
//! - `copy_and_show`: when a copy into the page has returned, fetches through what
//!   was published meanwhile see it. The bytes are ordered by the page's word alone.
//!
//! One writes to the page and says so; two make it visible at the same time;
//! the one who looks has seen that the write was over. The page is one number,
//! what fetches see of it another.
//!
//! Shown to fail: `code_written` leaves CODE_FRESH; `show_code` does not look
//! at CODE_SYNC (with two who show); it sets CODE_FRESH behind `sync`; `code_written`
//! looks whether the page was shown before it says that it was written to.
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
    fn new() -> Arc<Self> {
        Arc::new(Self {
            page: Page::new(),
            bytes: AtomicU32::new(0),
            fetched: AtomicU32::new(0),
            over: AtomicU32::new(0),
        })
    }

    /// Makes visible what this CPU sees.
    fn sync(&self) {
        let now = self.bytes.load(Ordering::Acquire);
        // Others may see it earlier or later, never less of it.
        self.fetched.fetch_max(now, Ordering::AcqRel);
    }

    fn show(&self) {
        let _again = self.page.show_code(|| self.sync());
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
        let frame = Frame::new();
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

/// What a copy to user memory does, and a fault that publishes the page.
#[test]
fn copy_and_show() {
    at_most(3, || {
        let frame = Frame::new();
        let publishes = {
            let frame = Arc::clone(&frame);
            thread::spawn(move || frame.page.show_code(|| frame.sync()))
        };
        let copies = {
            let frame = Arc::clone(&frame);
            thread::spawn(move || {
                frame.bytes.store(1, Ordering::Relaxed);
                if frame.page.code_written() {
                    frame.sync();
                }
            })
        };
        copies.join().unwrap();
        if publishes.join().unwrap() {
            let fetched = frame.fetched.load(Ordering::Relaxed);
            assert_eq!(fetched, 1, "what was copied is not fetched");
        }
    });
}
