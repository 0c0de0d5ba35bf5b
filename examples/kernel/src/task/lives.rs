//! How many threads of a process live, and whose status the process ends with.
//!
//! | who ends | status of the process |
//! |---|---|
//! | `exit_group`, a fatal signal | that one; the first of several wins |
//! | else the last thread that calls `exit` | the status it gives |
//!
//! Who is last is decided when it calls, not when it is gone: two that call at the same time are
//! two steps here, and a thread on its way out does not hide the status of one that calls later.
//! (Linux: `signal_struct::quick_threads`, `group_exit_code`.)

use crate::task::Status;

/// The threads of one process, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// Threads that are not gone.
    threads: usize,
    /// Of those, the threads that have called `exit`.
    leaving: usize,
    status: Option<Status>,
}

/// How a thread came to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leave {
    /// Somebody else wanted it, or it has not come yet.
    #[default]
    Told,
    /// It called `exit`.
    Called,
}

impl Lives {
    /// A process with its first thread.
    #[must_use]
    pub const fn first() -> Self {
        Lives {
            threads: 1,
            leaving: 0,
            status: None,
        }
    }

    /// Counts the threads that are not gone.
    #[must_use]
    pub const fn threads(&self) -> usize {
        self.threads
    }

    /// Answers the status, once all threads are to end.
    #[must_use]
    pub const fn status(&self) -> Option<Status> {
        self.status
    }

    /// Counts a new thread.
    pub fn enter(&mut self) {
        self.threads += 1;
    }

    /// Ends the whole process, unless that was said before.
    pub fn end(&mut self, status: Status) {
        self.status.get_or_insert(status);
    }

    /// One thread calls `exit`, once.
    pub fn exit(&mut self, code: u8) {
        self.leaving += 1;
        if self.leaving == self.threads {
            self.end(Status::Exited(code));
        }
    }

    /// A thread is gone. For the last one the answer is the process's status.
    pub fn gone(&mut self, leave: Leave) -> Option<Status> {
        self.threads -= 1;
        if leave == Leave::Called {
            self.leaving -= 1;
        }
        // The last one has called `exit`, or was told to end with all.
        (self.threads == 0).then(|| *self.status.get_or_insert(Status::Exited(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Leave, Lives};
    use crate::task::Status;

    fn threads(count: usize) -> Lives {
        let mut lives = Lives::first();
        for _ in 1..count {
            lives.enter();
        }
        lives
    }

    #[test]
    fn of_two_that_call_exit_before_either_is_gone_the_later_counts() {
        let mut lives = threads(2);
        lives.exit(3);
        assert_eq!(lives.status(), None);
        lives.exit(5);
        assert_eq!(lives.gone(Leave::Called), None);
        assert_eq!(lives.gone(Leave::Called), Some(Status::Exited(5)));
    }

    #[test]
    fn who_is_gone_first_is_not_asked() {
        let mut lives = threads(3);
        lives.exit(3);
        assert_eq!(lives.gone(Leave::Called), None);
        lives.exit(4);
        lives.exit(5);
        assert_eq!(lives.status(), Some(Status::Exited(5)));
    }

    #[test]
    fn exit_of_a_group_wins_over_every_exit() {
        for before in [0, 1] {
            let mut lives = threads(2);
            for _ in 0..before {
                lives.exit(3);
            }
            lives.end(Status::Exited(7));
            lives.end(Status::Killed(9));
            for _ in before..2 {
                lives.exit(4);
            }
            assert_eq!(lives.gone(Leave::Called), None);
            assert_eq!(lives.gone(Leave::Called), Some(Status::Exited(7)));
        }
    }

    /// exec ends the others, none of which called.
    #[test]
    fn those_who_were_told_are_not_counted_as_calls() {
        let mut lives = threads(3);
        lives.exit(3);
        assert_eq!(lives.gone(Leave::Told), None);
        assert_eq!(lives.gone(Leave::Called), None);
        assert_eq!(lives.status(), None);
        lives.exit(8);
        assert_eq!(lives.gone(Leave::Called), Some(Status::Exited(8)));
    }
}
