//! The bytes and the ends of one pipe; see pipe(7).
//!
//! A pipe never blocks: it answers [`Errno::EAGAIN`] and the file layer puts
//! the task to sleep on the pipe's channel. States, by the counts of ends:
//!
//! | readers | writers | read of an empty pipe | write |
//! |---|---|---|---|
//! | >0 | >0 | would block | as room allows; up to `PIPE_BUF` bytes all or nothing |
//! | >0 | 0  | end of file | – |
//! | 0  | >0 | – | EPIPE (and SIGPIPE, sent by the caller) |

use alloc::vec::Vec;

use crate::errno::{Errno, Result};

/// Bytes a pipe holds.
pub const CAPACITY: usize = 16 * 1024;

/// Writes of at most this many bytes are never mixed with others'.
pub const PIPE_BUF: usize = 4096;

/// A ring of bytes with its counts of open ends.
pub struct Pipe {
    ring: Vec<u8>,
    head: usize,
    len: usize,
    readers: usize,
    writers: usize,
}

impl Pipe {
    /// Makes an empty pipe with one end of each kind.
    ///
    /// # Errors
    /// `ENOMEM` when the kernel heap has no room for the ring.
    pub fn new() -> Result<Self> {
        let mut ring = Vec::new();
        ring.try_reserve_exact(CAPACITY)
            .map_err(|_| Errno::ENOMEM)?;
        ring.resize(CAPACITY, 0);
        Ok(Pipe {
            ring,
            head: 0,
            len: 0,
            readers: 1,
            writers: 1,
        })
    }

    /// Takes up to `into.len()` bytes; 0 means that no writer is left.
    ///
    /// # Errors
    /// `EAGAIN` while the pipe is empty and somebody may still write.
    pub fn read(&mut self, into: &mut [u8]) -> Result {
        if self.len == 0 && self.writers > 0 && !into.is_empty() {
            return Err(Errno::EAGAIN);
        }
        let n = into.len().min(self.len);
        let first = n.min(CAPACITY - self.head);
        into[..first].copy_from_slice(&self.ring[self.head..self.head + first]);
        into[first..n].copy_from_slice(&self.ring[..n - first]);
        self.head = (self.head + n) % CAPACITY;
        self.len -= n;
        Ok(n)
    }

    /// Puts in what fits.
    ///
    /// # Errors
    /// `EPIPE` without readers, `EAGAIN` without room.
    pub fn write(&mut self, from: &[u8]) -> Result {
        if self.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let room = CAPACITY - self.len;
        if !from.is_empty() && (room == 0 || (from.len() <= PIPE_BUF && room < from.len())) {
            return Err(Errno::EAGAIN);
        }
        let n = from.len().min(room);
        let tail = (self.head + self.len) % CAPACITY;
        let first = n.min(CAPACITY - tail);
        self.ring[tail..tail + first].copy_from_slice(&from[..first]);
        self.ring[..n - first].copy_from_slice(&from[first..n]);
        self.len += n;
        Ok(n)
    }

    /// Closes the reading end.
    pub fn close_reader(&mut self) {
        self.readers -= 1;
    }

    /// Closes the writing end.
    pub fn close_writer(&mut self) {
        self.writers -= 1;
    }

    /// Tells whether a read would return at once (data, or the end of file).
    #[must_use]
    pub fn readable(&self) -> bool {
        self.len > 0 || self.writers == 0
    }

    /// Tells whether a write would return at once (room, or EPIPE).
    #[must_use]
    pub fn writable(&self) -> bool {
        CAPACITY - self.len >= PIPE_BUF || self.readers == 0
    }

    /// Tells whether the other side of a reader has gone (poll's POLLHUP).
    #[must_use]
    pub fn hung_up(&self) -> bool {
        self.writers == 0
    }

    /// Tells whether the other side of a writer has gone (poll's POLLERR).
    #[must_use]
    pub fn broken(&self) -> bool {
        self.readers == 0
    }

    /// Counts the bytes that wait to be read (FIONREAD).
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::{CAPACITY, PIPE_BUF, Pipe};
    use crate::errno::Errno;

    #[test]
    fn bytes_come_out_in_order_across_the_wrap() {
        let mut pipe = Pipe::new().unwrap();
        let (mut next_in, mut next_out) = (0u8, 0u8);
        for round in 0..200 {
            let chunk: Vec<u8> = (0..1000 + round)
                .map(|_| {
                    next_in = next_in.wrapping_add(1);
                    next_in
                })
                .collect();
            assert_eq!(pipe.write(&chunk), Ok(chunk.len()));
            let mut back = vec![0; chunk.len()];
            assert_eq!(pipe.read(&mut back), Ok(chunk.len()));
            for byte in back {
                next_out = next_out.wrapping_add(1);
                assert_eq!(byte, next_out);
            }
        }
    }

    #[test]
    fn small_writes_are_all_or_nothing() {
        let mut pipe = Pipe::new().unwrap();
        assert_eq!(pipe.write(&vec![1; CAPACITY - 10]), Ok(CAPACITY - 10));
        assert_eq!(pipe.write(&[2; 11]), Err(Errno::EAGAIN));
        assert_eq!(pipe.write(&vec![2; PIPE_BUF + 1]), Ok(10));
        assert_eq!(pipe.write(&[3]), Err(Errno::EAGAIN));
    }

    #[test]
    fn ends_decide_between_waiting_and_the_end() {
        let mut pipe = Pipe::new().unwrap();
        assert_eq!(pipe.read(&mut [0; 4]), Err(Errno::EAGAIN));
        pipe.write(b"ab").unwrap();
        pipe.close_writer();
        let mut back = [0; 4];
        assert_eq!(pipe.read(&mut back), Ok(2));
        assert_eq!(pipe.read(&mut back), Ok(0));
        pipe.close_reader();
        assert_eq!(pipe.write(b"x"), Err(Errno::EPIPE));
    }
}
