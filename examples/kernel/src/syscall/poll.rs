//! Waits for several files: poll(2) and select(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Call;
use super::time::Form;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::fs::open::OpenFile;
use crate::limits::DESCRIPTORS;
use crate::sched::{Channel, Cut, Patience};
use crate::task::signal::Set;

/// POLLIN, and POLLRDNORM, which says the same.
const IN: u16 = 1 | 0x40;
/// POLLOUT, and POLLWRNORM.
const OUT: u16 = 4 | 0x100;
const ERR: u16 = 8;
const HUP: u16 = 0x10;
const NVAL: u16 = 0x20;

/// One file to look at: the file (or none, which is at once "invalid"), what is wanted,
/// what was found.
struct Watch<A: Arch> {
    file: Option<Arc<OpenFile<A>>>,
    ignored: bool,
    wanted: u16,
    found: u16,
}

impl<A: Arch> Call<'_, A> {
    pub(super) fn poll(&self, array: usize, count: usize, milliseconds: usize) -> Result {
        let milliseconds = milliseconds as i32;
        let deadline = (milliseconds >= 0).then(|| self.after(milliseconds as u64 * 1_000_000));
        self.poll_until(array, count, deadline)
    }

    pub(super) fn ppoll(
        &self,
        array: usize,
        count: usize,
        (timeout, form): (usize, Form),
        mask: usize,
    ) -> Result {
        let deadline = if timeout == 0 {
            None
        } else {
            Some(self.after(self.get_time(timeout, form)?))
        };
        self.borrow_mask(mask)?;
        self.poll_until(array, count, deadline)
    }

    fn after(&self, time: u64) -> u64 {
        self.system.arch.monotonic_ns().saturating_add(time)
    }

    /// Uses another signal mask until the call is over (ppoll, pselect).
    fn borrow_mask(&self, mask: usize) -> Result<()> {
        if mask != 0 {
            let set = Set(u64::from_ne_bytes(self.get(mask)?)).maskable();
            let before = self.system.set_mask(self.task, set);
            self.task.own.lock().saved_mask = Some(before);
        }
        Ok(())
    }

    fn poll_until(&self, array: usize, count: usize, deadline: Option<u64>) -> Result {
        if count > self.task.process.file_limit() {
            return Err(Errno::EINVAL);
        }
        let mut watches = Vec::with_capacity(count);
        for i in 0..count {
            let entry: [u8; 8] = self.get(array.wrapping_add(i * 8))?;
            let fd = i32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
            let wanted = u16::from_ne_bytes([entry[4], entry[5]]);
            let file = if fd < 0 {
                None
            } else {
                self.file(fd as usize).ok()
            };
            watches.push(Watch {
                file,
                ignored: fd < 0,
                wanted,
                found: 0,
            });
        }
        let ready = self.watch(&mut watches, deadline)?;
        for (i, watch) in watches.iter().enumerate() {
            self.put(array.wrapping_add(i * 8 + 6), &watch.found.to_ne_bytes())?;
        }
        Ok(ready)
    }

    fn watch(&self, watches: &mut [Watch<A>], deadline: Option<u64>) -> Result {
        let system = self.system;
        let look = || {
            for watch in watches.iter_mut().filter(|watch| !watch.ignored) {
                watch.found = watch.file.as_ref().map_or(NVAL, |file| {
                    let events = file.events(system);
                    let mut found = 0;
                    found |= if events.read { IN } else { 0 };
                    found |= if events.write { OUT } else { 0 };
                    found &= watch.wanted;
                    found |= if events.hang_up { HUP } else { 0 };
                    found | if events.error { ERR } else { 0 }
                });
            }
            let ready = watches.iter().filter(|watch| watch.found != 0).count();
            (ready > 0).then_some(ready)
        };
        match system.wait_until(Channel::AnyFile, deadline, Patience::Interruptible, look) {
            Ok(ready) => Ok(ready),
            Err(Cut::Timeout) => Ok(0),
            Err(Cut::Signal) => Err(Errno::EINTR),
        }
    }

    pub(super) fn select(&self, count: usize, sets: [usize; 3], timeout: usize) -> Result {
        let deadline = if timeout == 0 {
            None
        } else {
            let (seconds, micro) = (self.get_nth(timeout, 0)?, self.get_nth(timeout, 1)?);
            Some(
                self.after(
                    (seconds as u64)
                        .saturating_mul(1_000_000_000)
                        .saturating_add((micro as u64).saturating_mul(1000)),
                ),
            )
        };
        self.select_until(count, sets, deadline)
    }

    pub(super) fn pselect6(
        &self,
        count: usize,
        sets: [usize; 3],
        (timeout, form): (usize, Form),
        mask: usize,
    ) -> Result {
        let deadline = if timeout == 0 {
            None
        } else {
            Some(self.after(self.get_time(timeout, form)?))
        };
        if mask != 0 {
            self.borrow_mask(self.get_word(mask)?)?;
        }
        self.select_until(count, sets, deadline)
    }

    fn select_until(&self, count: usize, sets: [usize; 3], deadline: Option<u64>) -> Result {
        const BYTES: usize = DESCRIPTORS / 8;
        if count as i32 <= -1 {
            return Err(Errno::EINVAL);
        }
        let count = count.min(DESCRIPTORS);
        let bytes = count.div_ceil(8 * Self::WORD) * Self::WORD;
        let mut bits = [[0u8; BYTES]; 3];
        for (set, bits) in sets.iter().zip(&mut bits) {
            if *set != 0 {
                self.get_into(*set, &mut bits[..bytes])?;
            }
        }
        let has = |set: usize, fd: usize| bits[set][fd / 8] & 1 << (fd % 8) != 0;
        let mut watches = Vec::with_capacity(count);
        for fd in 0..count {
            let wanted = if has(0, fd) { IN } else { 0 } | if has(1, fd) { OUT } else { 0 };
            let any = wanted != 0 || has(2, fd);
            let file = if any { Some(self.file(fd)?) } else { None };
            watches.push(Watch {
                file,
                ignored: !any,
                wanted,
                found: 0,
            });
        }
        self.watch(&mut watches, deadline)?;
        let mut found = [[0u8; BYTES]; 3];
        let mut total = 0;
        for (fd, watch) in watches.iter().enumerate() {
            let answers = [
                watch.found & (IN | HUP) != 0 && has(0, fd),
                watch.found & (OUT | ERR) != 0 && has(1, fd),
                false,
            ];
            for (set, answer) in answers.into_iter().enumerate() {
                if answer {
                    found[set][fd / 8] |= 1 << (fd % 8);
                    total += 1;
                }
            }
        }
        for (set, bits) in sets.iter().zip(&found) {
            if *set != 0 {
                self.put(*set, &bits[..bytes])?;
            }
        }
        Ok(total)
    }
}
