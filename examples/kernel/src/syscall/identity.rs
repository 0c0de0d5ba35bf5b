//! Who is who: process groups, sessions, users, limits, names.
//!
//! There is one user, root, and nothing is forbidden to it; calls that change the user
//! succeed only in staying root.

use alloc::sync::Arc;

use super::Call;
use super::time::Form;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::task::Process;
use crate::task::limit::Limit;

impl<A: Arch> Call<'_, A> {
    fn process_or_own(&self, pid: usize) -> Result<Arc<Process<A>>> {
        if pid as u32 == 0 {
            return Ok(self.task.process.clone());
        }
        self.system
            .processes
            .lock()
            .get(&(pid as u32))
            .cloned()
            .ok_or(Errno::ESRCH)
    }

    pub(super) fn getppid(&self) -> Result {
        let parent = self.task.process.shared.lock().parent;
        Ok(if parent == 0 && self.task.process.pid != 1 {
            1
        } else {
            parent as usize
        })
    }

    pub(super) fn getpgid(&self, pid: usize) -> Result {
        Ok(self.process_or_own(pid)?.shared.lock().group as usize)
    }

    pub(super) fn getsid(&self, pid: usize) -> Result {
        Ok(self.process_or_own(pid)?.shared.lock().session as usize)
    }

    pub(super) fn setpgid(&self, pid: usize, group: usize) -> Result {
        let process = self.process_or_own(pid)?;
        let group = if group as u32 == 0 {
            process.pid
        } else {
            group as u32
        };
        if group > i32::MAX as u32 {
            return Err(Errno::EINVAL);
        }
        let own = self.task.process.pid;
        let session = self.task.process.shared.lock().session;
        let exists = group == process.pid
            || self.system.processes.lock().values().any(|other| {
                let shared = other.shared.lock();
                shared.group == group && shared.session == session
            });
        let mut shared = process.shared.lock();
        if process.pid != own && shared.parent != own {
            return Err(Errno::ESRCH);
        }
        if shared.session != session || shared.session == process.pid || !exists {
            return Err(Errno::EPERM);
        }
        shared.group = group;
        Ok(0)
    }

    pub(super) fn setsid(&self) -> Result {
        let pid = self.task.process.pid;
        if self
            .system
            .processes
            .lock()
            .values()
            .any(|other| other.shared.lock().group == pid)
        {
            return Err(Errno::EPERM);
        }
        let mut shared = self.task.process.shared.lock();
        shared.group = pid;
        shared.session = pid;
        Ok(pid as usize)
    }

    pub(super) fn set_identity(&self, ids: [usize; 3]) -> Result {
        let stays_root = |id: &usize| matches!(*id as u32, 0 | u32::MAX);
        if ids.iter().all(stays_root) {
            Ok(0)
        } else {
            Err(Errno::EPERM)
        }
    }

    /// Root may be in any group; to be in one changes nothing, and none is kept.
    pub(super) fn setgroups(&self, count: usize, list: usize) -> Result {
        const MOST: usize = 65536;
        if count > MOST {
            return Err(Errno::EINVAL);
        }
        for i in 0..count {
            self.get::<4>(list.wrapping_add(4 * i))?;
        }
        Ok(0)
    }

    pub(super) fn get_identity(&self, places: [usize; 3]) -> Result {
        for place in places {
            self.put(place, &0u32.to_ne_bytes())?;
        }
        Ok(0)
    }

    pub(super) fn prlimit(
        &self,
        pid: usize,
        resource: usize,
        (new, old): (usize, usize),
        form: Form,
    ) -> Result {
        let process = self.process_or_own(pid)?;
        let limit = if new == 0 {
            process.shared.lock().limits.get(resource)?
        } else {
            let [soft, hard] = self.get_pair(new, form)?;
            let limit = Limit { soft, hard };
            let before = process.shared.lock().limits.set(resource, limit)?;
            self.bound_space(&process);
            before
        };
        if old != 0 {
            // Infinity is all ones in either form.
            self.put_pair(old, [limit.soft, limit.hard], form)?;
        }
        Ok(0)
    }

    /// Tells a process's space of its limits, as they are afterwards: somebody else may change them
    /// at the same time.
    fn bound_space(&self, process: &Process<A>) {
        let Some(space) = process.space() else {
            return;
        };
        loop {
            let limits = process.shared.lock().limits;
            space.set_limits(&limits);
            if process.shared.lock().limits == limits {
                break;
            }
        }
    }

    /// Copies a string up to its NUL, or as much of it as there is room for.
    fn start_of_string(&self, at: usize, into: &mut [u8]) -> Result<()> {
        for (i, byte) in into.iter_mut().enumerate() {
            [*byte] = self.get::<1>(at.wrapping_add(i))?;
            if *byte == 0 {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn prctl(&self, option: usize, arguments: [usize; 4]) -> Result {
        const SET_NAME: u32 = 15;
        const GET_NAME: u32 = 16;
        const SET_THP_DISABLE: u32 = 41;
        const GET_THP_DISABLE: u32 = 42;
        let [argument, rest @ ..] = arguments;
        // It is an int.
        match option as u32 {
            // There are no huge pages; whether a program wants none is remembered.
            SET_THP_DISABLE if rest == [0; 3] => {
                self.task.process.shared.lock().refuses_huge_pages = argument != 0;
                Ok(0)
            }
            GET_THP_DISABLE if arguments == [0; 4] => {
                Ok(self.task.process.shared.lock().refuses_huge_pages.into())
            }
            SET_NAME => {
                let mut name = [0; 16];
                self.start_of_string(argument, &mut name[..15])?;
                self.task.process.shared.lock().name = name;
                Ok(0)
            }
            GET_NAME => {
                let name = self.task.process.shared.lock().name;
                self.put(argument, &name).map(|()| 0)
            }
            _ => Err(Errno::EINVAL),
        }
    }
}
