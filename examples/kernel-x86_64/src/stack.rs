//! The memory of kernel stacks.
//!
//! Before mm-core is here they come from a static pool.

use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a kernel stack.
pub const STACK_BYTES: usize = 32 * 1024;
const COUNT: usize = 4;

#[repr(C, align(4096))]
struct Pool(core::cell::UnsafeCell<[[u8; STACK_BYTES]; COUNT]>);

// SAFETY: each stack is handed out once.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(core::cell::UnsafeCell::new([[0; STACK_BYTES]; COUNT]));
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// One kernel stack.
pub struct KernelStack {
    end: usize,
}

impl KernelStack {
    /// Takes a stack; `None` when there is no memory.
    pub fn new() -> Option<Self> {
        let index = NEXT.fetch_add(1, Ordering::Relaxed);
        (index < COUNT).then(|| Self {
            end: POOL.0.get() as usize + (index + 1) * STACK_BYTES,
        })
    }

    /// The first address above it.
    pub fn end(&self) -> usize {
        self.end
    }
}
