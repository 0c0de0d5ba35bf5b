//! Who is who: process groups, sessions, users, limits, names.
//!
//! There is one user, root, and nothing is forbidden to it; calls that change the user
//! succeed only in staying root.

use alloc::sync::Arc;

use super::Call;
use super::time::Form;
use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::limits::{DESCRIPTORS, TASKS};
use crate::task::Process;

const INFINITY: u64 = u64::MAX;

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

    pub(super) fn prlimit(&self, resource: usize, new: usize, old: usize, form: Form) -> Result {
        const STACK: usize = 3;
        const PROCESSES: usize = 6;
        const FILES: usize = 7;
        if resource >= 16 {
            return Err(Errno::EINVAL);
        }
        if new != 0 {
            // Limits are what they are; a program may ask for any and gets its answer.
            self.get_pair(new, form)?;
        }
        if old != 0 {
            let limit = match resource {
                STACK => 8 << 20,
                PROCESSES => TASKS as u64,
                FILES => DESCRIPTORS as u64,
                _ => INFINITY,
            };
            // Infinity is all ones in either form.
            self.put_pair(old, [limit, limit], form)?;
        }
        Ok(0)
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

    pub(super) fn prctl(&self, option: usize, argument: usize) -> Result {
        const SET_NAME: usize = 15;
        const GET_NAME: usize = 16;
        match option {
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
