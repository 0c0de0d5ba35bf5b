//! Futexes: sleep while a word of user memory has a value; futex(2).
//!
//! [`crate::memory::word`] says by what a futex is known: without `FUTEX_PRIVATE_FLAG`, processes
//! that share its memory meet there wherever they have mapped it.

use super::Call;
use super::time::Form;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::memory::Reach;
use crate::sched::{Channel, Cut};

const WAIT: usize = 0;
const WAKE: usize = 1;
const REQUEUE: usize = 3;
const CMP_REQUEUE: usize = 4;
const WAIT_BITSET: usize = 9;
const WAKE_BITSET: usize = 10;
const PRIVATE_FLAG: usize = 128;
const CLOCK_REALTIME: usize = 256;
const COMMAND: usize = 127;

impl<A: Arch> Call<'_, A> {
    pub(super) fn futex(
        &self,
        address: usize,
        op: usize,
        value: usize,
        (timeout, form): (usize, Form),
        address2: usize,
        value3: usize,
    ) -> Result {
        if address % 4 != 0 {
            return Err(Errno::EINVAL);
        }
        if address >= self.system.last_user_end() {
            return Err(Errno::EFAULT);
        }
        let space = self.space()?;
        let reach = if op & PRIVATE_FLAG != 0 {
            Reach::Space
        } else {
            Reach::Machine
        };
        let word = space.name_word(address, reach)?;
        let channel = Channel::Futex(word.name);
        match op & COMMAND {
            WAIT | WAIT_BITSET => {
                let deadline = match timeout {
                    0 => None,
                    at => {
                        let time = self.get_time(at, form)?;
                        let now = self.system.arch.monotonic_ns();
                        Some(match (op & COMMAND, op & CLOCK_REALTIME) {
                            (WAIT, _) => now.saturating_add(time),
                            (_, 0) => time,
                            _ => time.saturating_sub(
                                self.system.arch.boot_time().saturating_mul(1_000_000_000),
                            ),
                        })
                    }
                };
                let (looked, word) = self.system.look_at_futex(&space, address)?;
                if word != value as u32 {
                    return Err(Errno::EAGAIN);
                }
                match self.system.sleep_on_futex(looked, channel, deadline) {
                    Ok(()) => Ok(0),
                    Err(Cut::Timeout) => Err(Errno::ETIMEDOUT),
                    // A wait with a timeout must not start again with all of it.
                    Err(Cut::Signal) => Err(if timeout == 0 {
                        Errno::RESTART
                    } else {
                        Errno::EINTR
                    }),
                }
            }
            // Who wakes does not look, and so does not wait for a page.
            WAKE | WAKE_BITSET => Ok(self.system.wake_futex(channel, value as u32 as usize)),
            command @ (REQUEUE | CMP_REQUEUE) => {
                // Who is moved keeps only the first word's name alive, but waits on the second
                // one until it is woken there: as long as somebody maps it, that is what it means.
                let second = space.name_word(address2, reach)?;
                let to = Channel::Futex(second.name);
                let (looked, found) = self.system.look_at_futex(&space, address)?;
                if command == CMP_REQUEUE && found != value3 as u32 {
                    return Err(Errno::EAGAIN);
                }
                Ok(self.system.requeue_futex(
                    looked,
                    (channel, value as u32 as usize),
                    (to, timeout as u32 as usize),
                ))
            }
            _ => Err(Errno::ENOSYS),
        }
    }
}
