//! Waits for children: wait4(2) and waitid(2).

use alloc::sync::Arc;

use crate::arch::Arch;
use crate::errno::{Errno, Result};
use crate::sched::{Channel, Patience};
use crate::system::System;
use crate::task::{Process, Status};

/// Which children are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    /// Any.
    Any,
    /// The one with this number.
    One(u32),
    /// Those of this process group.
    Group(u32),
}

/// Whether to sleep until one has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hurry {
    /// Sleep.
    Wait,
    /// Only look (WNOHANG).
    Look,
}

/// Whether the zombie stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reap {
    /// It goes.
    Take,
    /// It stays to be waited for again (WNOWAIT).
    Leave,
}

impl<A: Arch> System<A> {
    /// Finds an ended child of `parent`; `None` when there is none yet and `hurry` says
    /// to look only.
    ///
    /// # Errors
    /// `ECHILD` without such children; restarted after a signal.
    pub fn wait_child(
        &self,
        parent: &Process<A>,
        which: Children,
        hurry: Hurry,
        reap: Reap,
    ) -> Result<Option<(u32, Status)>> {
        let look = || loop {
            match self.find_zombie(parent.pid, which) {
                Ok(None) if hurry == Hurry::Wait => return None,
                // Another thread was quicker: look for another child.
                Ok(Some((zombie, _))) if reap == Reap::Take && !self.forget(&zombie) => {}
                Ok(found) => return Some(Ok(found.map(|(zombie, status)| (zombie.pid, status)))),
                Err(error) => return Some(Err(error)),
            }
        };
        let found = self.wait_until(
            Channel::Child(parent.pid),
            None,
            Patience::Interruptible,
            look,
        );
        found.map_err(|_| Errno::RESTART)?
    }

    fn find_zombie(
        &self,
        parent: u32,
        which: Children,
    ) -> Result<Option<(Arc<Process<A>>, Status)>> {
        let processes = self.processes.lock();
        let mut any = false;
        for process in processes.values() {
            let process: &Arc<Process<A>> = process;
            let shared = process.shared.lock();
            let chosen = match which {
                Children::Any => true,
                Children::One(pid) => process.pid == pid,
                Children::Group(group) => shared.group == group,
            };
            if shared.parent != parent || !chosen {
                continue;
            }
            any = true;
            if let (true, Some(status)) = (shared.zombie, shared.lives.status()) {
                return Ok(Some((process.clone(), status)));
            }
        }
        if any { Ok(None) } else { Err(Errno::ECHILD) }
    }
}
