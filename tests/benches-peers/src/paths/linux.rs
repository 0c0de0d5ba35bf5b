//! The same work done by the host's kernel, through its system calls.

use super::super::measure::{Sample, timed};
use std::ptr;

/// Private anonymous memory of this process.
struct Mapping {
    start: *mut u8,
    pages: usize,
}

impl Mapping {
    fn new(pages: usize) -> Self {
        // SAFETY: a fresh mapping, where the kernel likes.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                pages << 12,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "no mapping");
        // SAFETY: the mapping made above. Advice: a failure changes nothing.
        unsafe { libc::madvise(start, pages << 12, libc::MADV_NOHUGEPAGE) };
        Self {
            start: start.cast(),
            pages,
        }
    }

    fn write(&self) {
        for page in 0..self.pages {
            // SAFETY: inside of the mapping.
            unsafe { self.start.add(page << 12).write_volatile(1) }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, to which no reference is left.
        unsafe { libc::munmap(self.start.cast(), self.pages << 12) };
    }
}

pub fn touch(pages: usize) -> Sample {
    let memory = Mapping::new(pages);
    timed(pages, || memory.write())
}

/// Forks; the child waits to be ended.
fn child() -> libc::pid_t {
    // SAFETY: one thread; the child makes system calls only.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "no fork");
    if pid == 0 {
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    pid
}

fn end(pid: libc::pid_t) {
    // SAFETY: our own child, which is not yet waited for.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, ptr::null_mut(), 0);
    }
}

/// Forks with the pages touched; what a fork costs without them is in it too,
/// so that it takes many pages.
pub fn fork(pages: usize) -> Sample {
    let memory = Mapping::new(pages * 8);
    memory.write();
    let mut pid = 0;
    let sample = timed(pages * 8, || pid = child());
    end(pid);
    sample
}

pub fn cow(pages: usize) -> Sample {
    let memory = Mapping::new(pages);
    memory.write();
    let pid = child();
    let sample = timed(pages, || memory.write());
    end(pid);
    sample
}
