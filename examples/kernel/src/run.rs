//! A run from boot to power-off.
//!
//! The command line says what the first process is:
//!
//! | word | first process |
//! |---|---|
//! | `script=/path` | `/bin/sh /path` |
//! | `argv=/path` | what that file says: the program and its arguments, a zero byte behind each |
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
use crate::errno::{Errno, Result};
use crate::fs::device::Device;
use crate::fs::open::{FileKind, OpenFile, flag};
use crate::fs::table::{OnExec, Table};
use crate::fs::tree::Kind;
use crate::fs::walk::{LastLink, walk};
use crate::limits::{ARGUMENT_BYTES, DESCRIPTORS};
use crate::syscall::Call;
use crate::system::System;
use crate::task::exec::Words;
use crate::task::limit::Limits;
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
        let root = self.root.lock().clone().ok_or(Errno::ENOENT)?;
        let dev = root.child(b"dev")?.child(b"console")?;
        let console = OpenFile::new(FileKind::Device(dev, Device::Terminal), flag::READ_WRITE)?;
        for _ in 0..3 {
            files.insert(console.clone(), 0..DESCRIPTORS, OnExec::Keep)?;
        }
        let shared = Shared {
            parent: 0,
            group: 1,
            session: 1,
            space: None,
            files: Some(Arc::new(Mutex::new(files))),
            cwd: root,
            umask: 0o022,
            limits: Limits::new(),
            program: Vec::new(),
            arguments: Vec::new(),
            name: [0; 16],
            most_resident: 0,
            refuses_huge_pages: false,
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
        let loaded = self
            .first_words()
            .and_then(|(path, words, argc)| {
                let mut call = Call {
                    system: task.system,
                    task,
                    frame,
                };
                call.exec(&path, words, argc)
            })
            .inspect_err(|error| {
                let line = self.boot.command_line;
                self.log(format_args!(
                    "cannot start what {line:?} asks for: {error:?}"
                ));
            });
        if loaded.is_err() {
            self.end_process(&task.process, Status::Exited(127));
        }
    }

    fn first_words(&self) -> Result<(Vec<u8>, Words, usize)> {
        let mut argv = b"/bin/sh\0".to_vec();
        for word in self.boot.command_line.split_ascii_whitespace() {
            if let Some(script) = word.strip_prefix("script=") {
                argv.extend_from_slice(script.as_bytes());
                argv.push(0);
            } else if let Some(file) = word.strip_prefix("argv=") {
                argv = self.whole_file(file.as_bytes())?;
            }
        }
        let words = || argv.split_inclusive(|&byte| byte == 0);
        let mut packed = Words::new()?;
        for word in words() {
            packed.push(word.strip_suffix(b"\0").unwrap_or(word))?;
        }
        for variable in ENVIRONMENT {
            packed.push(variable)?;
        }
        let first = argv.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok((first.to_vec(), packed, words().count()))
    }

    fn whole_file(&self, path: &[u8]) -> Result<Vec<u8>> {
        let root = self.root.lock().clone().ok_or(Errno::ENOENT)?;
        let no_link = |_| Err(Errno::ENOENT);
        let place = walk(&root, &root, path, LastLink::Follow, &no_link)?;
        let Kind::File(data) = &place.existing()?.kind else {
            return Err(Errno::EACCES);
        };
        let length = usize::try_from(data.size()).map_err(|_| Errno::E2BIG)?;
        if length > ARGUMENT_BYTES {
            return Err(Errno::E2BIG);
        }
        let mut bytes = alloc::vec![0; length];
        let n = self.read_data(data, 0, &mut bytes)?;
        bytes.truncate(n);
        Ok(bytes)
    }
}
