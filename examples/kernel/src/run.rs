//! A run from boot to power-off.
//!
//! The command line says what the first process is:
//!
//! | word | first process |
//! |---|---|
//! | `script=/path` | `/bin/sh /path` |
//! | `program=/path args...` | that program |
//! | `shell` | `/bin/sh` on the terminal |
//!
//! `overflow-stack` before that has the first process run its kernel stack over instead.
//!
//! When it ends, everything else is ended too; then the summary is written and the
//! machine is switched off. The run succeeds if the first process exited with 0, nothing
//! leaked, and some read was waited for.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::sync::Mutex;

use crate::arch::{Arch, Frame, Outcome};
use crate::errno::Result;
use crate::fs::device::Device;
use crate::fs::open::{FileKind, OpenFile, flag};
use crate::fs::table::{OnExec, Table};
use crate::syscall::Call;
use crate::system::System;
use crate::task::exec::Words;
use crate::task::lives::Lives;
use crate::task::signal::{Action, Pending, SIGNALS, Set};
use crate::task::{Process, Shared, Status, Task};
use crate::tty::Tty;

const ENVIRONMENT: [&[u8]; 4] = [
    b"PATH=/bin:/usr/bin",
    b"HOME=/root",
    b"TERM=linux",
    b"PS1=mm# ",
];

impl<A: Arch> System<A> {
    /// Runs everything: the boot thread's life after the machine is set up.
    pub fn run(&'static self) -> ! {
        self.arch.start_cpus();
        self.note_boot();
        let started = self.build_tree().and_then(|()| self.start_first());
        match started {
            Ok(()) => self.idle(),
            Err(error) => self.log(format_args!("cannot start: {error:?}")),
        }
        self.forget_space();
        // Empty tables, too, keep memory until they are cleared.
        // Dropped with no lock held: a kernel stack's end takes locks of its own.
        drop(core::mem::take(&mut *self.tasks.lock()));
        self.processes.lock().clear();
        *self.tty.lock() = Tty::new();
        let root = self.root.lock().take();
        drop(root);
        let first = self.first_status.lock().take();
        let clean = self.summarize();
        let well = match first {
            Some(Status::Exited(0)) => true,
            Some(status) => {
                self.log(format_args!("the first process ended with {status:?}"));
                false
            }
            None => false,
        };
        self.arch.power_off(if clean && well {
            Outcome::Success
        } else {
            Outcome::Failure
        })
    }

    fn start_first(&'static self) -> Result<()> {
        let mut files = Table::new();
        let root = self.root.lock().clone();
        let dev = root
            .ok_or(crate::errno::Errno::ENOENT)?
            .child(b"dev")?
            .child(b"console")?;
        let console = OpenFile::new(
            FileKind::Device(dev, Device::Terminal),
            b"/dev/console".to_vec(),
            flag::READ_WRITE,
        )?;
        for _ in 0..3 {
            files.insert(console.clone(), 0, OnExec::Keep)?;
        }
        let shared = Shared {
            parent: 0,
            group: 1,
            session: 1,
            space: None,
            files: Some(Arc::new(Mutex::new(files))),
            cwd: b"/".to_vec(),
            umask: 0o022,
            program: Vec::new(),
            arguments: Vec::new(),
            name: [0; 16],
            lives: Lives::first(),
            exec_by: None,
            zombie: false,
            holds_parent: false,
            actions: [Action::default(); SIGNALS],
            pending: Pending::default(),
            alarm: None,
        };
        let process = Arc::new(Process {
            pid: 1,
            shared: Mutex::new(shared),
        });
        let task = self.new_task(self, 1, process.clone(), A::Frame::new(0, 0), Set(0))?;
        *self.last_number.lock() = 1;
        {
            let mut tty = self.tty.lock();
            (tty.group, tty.session) = (1, 1);
        }
        self.processes.lock().insert(1, process);
        self.tasks.lock().insert(1, task.clone());
        self.start_task(&task);
        Ok(())
    }

    /// Gives the first process its program: runs on that process's own thread, because
    /// loading waits for the disk.
    pub fn load_first(&self, task: &Arc<Task<A>>, frame: &mut A::Frame) {
        let words = self.boot.command_line.split_ascii_whitespace();
        if { words }.next() == Some("overflow-stack") {
            crate::stack::run_over(0);
        }
        let loaded = self.first_words().and_then(|(path, words, argc)| {
            Call {
                system: task.system,
                task,
                frame,
            }
            .exec(&path, words, argc)
            .inspect_err(|error| {
                self.log(format_args!(
                    "cannot run {}: {error:?}",
                    alloc::string::String::from_utf8_lossy(&path)
                ));
            })
        });
        if loaded.is_err() {
            self.end_process(&task.process, Status::Exited(127));
        }
    }

    fn first_words(&self) -> Result<(Vec<u8>, Words, usize)> {
        let line = self.boot.command_line;
        let mut list: Vec<&str> = Vec::new();
        let mut words = line.split_ascii_whitespace();
        while let Some(word) = words.next() {
            if let Some(script) = word.strip_prefix("script=") {
                list.extend(["/bin/sh", script]);
            } else if let Some(program) = word.strip_prefix("program=") {
                list.push(program);
                list.extend(words.by_ref());
            }
        }
        if list.is_empty() {
            list.push("/bin/sh");
        }
        let mut packed = Words::new()?;
        for word in &list {
            packed.push(word.as_bytes())?;
        }
        for variable in ENVIRONMENT {
            packed.push(variable)?;
        }
        let path = list
            .first()
            .map_or(Vec::new(), |path| path.as_bytes().to_vec());
        Ok((path, packed, list.len()))
    }
}
