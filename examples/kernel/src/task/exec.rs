//! Runs a program: execve(2).
//!
//! ```text
//!  path ─► file ─► "#!"? ─► ELF headers ─► map plan ─► new space, stack, heap    may fail
//!       ─► other threads end ─► the new space takes the old one's place          cannot, but for
//!                                                    descriptors shared with another process
//! ```
//! The new space is built whole beside the old one; until the last step the caller's
//! program is untouched and gets its errno. Nothing of the file is copied: its pages
//! are mapped and come on first touch, except the headers and the page where the bss
//! begins.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use mm_elf::{Header, ImageFacts, Machine, Plan, ProcessFacts, Stack, Target};

use crate::arch::{Arch, Frame};
use crate::errno::{Errno, Result};
use crate::fs::tree::Kind;
use crate::fs::walk::{LastLink, walk};
use crate::limits::{ARGUMENT_BYTES, Grant, SCRATCH_QUOTA};
use crate::memory::{Claim, FileData, Purpose, Space};
use crate::sched::{Channel, Patience};
use crate::sync::Mutex;
use crate::syscall::Call;
use crate::task::signal::{Action, IGNORE, SIGKILL};
use crate::task::{Files, Status};

const MAX_SCRIPTS: usize = 4;
const HEAD_BYTES: usize = 256;
const MAX_TABLE_BYTES: u64 = 64 * 1024;
/// Bytes of stack that are mapped at once; it grows down from there.
const FIRST_STACK_BYTES: usize = 256 * 1024;
const STACK_LIMIT: u64 = 2 << 20;

/// argv and envp on their way into a new program.
pub struct Words {
    bytes: Vec<u8>,
    count: usize,
    grant: Grant,
}

impl Words {
    /// Makes an empty list.
    ///
    /// # Errors
    /// `ENOMEM`, when other execs use up the kernel's room.
    pub fn new() -> Result<Self> {
        Ok(Words {
            bytes: Vec::new(),
            count: 0,
            grant: SCRATCH_QUOTA.take(0, Errno::ENOMEM)?,
        })
    }

    /// Answers how long the next string may be, with its NUL.
    #[must_use]
    pub fn room(&self) -> usize {
        ARGUMENT_BYTES.saturating_sub(self.bytes.len() + self.count * size_of::<usize>())
    }

    /// Adds a string.
    ///
    /// # Errors
    /// `E2BIG`, `ENOMEM`.
    pub fn push(&mut self, word: &[u8]) -> Result<()> {
        if word.len() + 1 + size_of::<usize>() > self.room() {
            return Err(Errno::E2BIG);
        }
        self.grant.grow(word.len() + 1, Errno::ENOMEM)?;
        self.bytes
            .try_reserve(word.len() + 1)
            .map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(word);
        self.bytes.push(0);
        self.count += 1;
        Ok(())
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.bytes.split(|&byte| byte == 0).take(self.count)
    }
}

/// The program's file, and the arguments after scripts were resolved.
struct Image<A: Arch> {
    program: Arc<Claim<A>>,
    path: Vec<u8>,
    words: Words,
    argc: usize,
}

/// Splits what follows `#!` into the interpreter and its argument, which may be empty: up to the end
/// of the line, or of the file, behind which there are zeros. `None` when there is no interpreter, or
/// no end of it (Linux: load_script).
fn script_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let newline = line.iter().position(|&byte| byte == b'\n');
    let line = &line[..newline.unwrap_or(line.len())];
    let line = &line[line.iter().position(|byte| !is_blank(byte))?..];
    let end = line.iter().position(|byte| is_blank(byte) || *byte == 0);
    let end = end.or(newline.map(|_| line.len()))?;
    let (interpreter, rest) = line.split_at(end);
    let rest = rest.split(|&byte| byte == 0).next().unwrap_or_default();
    (!interpreter.is_empty()).then(|| (interpreter, rest.trim_ascii()))
}

impl<A: Arch> Call<'_, A> {
    /// Replaces the caller's program. `words` holds `argc` arguments, then the
    /// environment.
    ///
    /// # Errors
    /// As execve(2); the caller goes on as before.
    pub fn exec(&mut self, path: &[u8], words: Words, argc: usize) -> Result<()> {
        let image = self.resolve_scripts(path, words, argc)?;
        let (space, entry, sp) = self.build_space(&image, path)?;
        self.end_other_threads()?;
        self.take_number();
        let files = self.own_files()?;
        self.take_over(&image, space, files);
        *self.frame = A::Frame::new(entry, sp);
        Ok(())
    }

    /// Finds a program, and keeps it from being written.
    fn find_program(&self, path: &[u8]) -> Result<(Claim<A>, Vec<u8>)> {
        let root = self.system.root.lock().clone().ok_or(Errno::ENOENT)?;
        let (cwd, program) = {
            let shared = self.task.process.shared.lock();
            (shared.cwd.clone(), shared.program.clone())
        };
        let _names = self.system.names.lock();
        let magic = |_| Ok(program.clone());
        let place = walk(&root, &cwd, path, LastLink::Follow, &magic)?;
        let node = place.existing()?.clone();
        if !matches!(node.kind, Kind::File(_)) || node.facts.lock().permissions & 0o111 == 0 {
            return Err(Errno::EACCES);
        }
        Ok((Claim::new(node, Purpose::Run)?, place.path()?))
    }

    fn read_head(&self, data: &FileData<A>, at: u64, into: &mut [u8]) -> Result {
        let mut done = 0;
        while done < into.len() {
            match self
                .system
                .read_data(data, at + done as u64, &mut into[done..])?
            {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    fn resolve_scripts(&self, path: &[u8], words: Words, argc: usize) -> Result<Image<A>> {
        let (mut words, mut argc) = (words, argc);
        let mut script: Vec<u8> = path.to_vec();
        for _ in 0..MAX_SCRIPTS {
            let (program, whole) = self.find_program(&script)?;
            let mut head = [0; HEAD_BYTES];
            self.read_head(program.data()?, 0, &mut head)?;
            let Some(line) = head.strip_prefix(b"#!") else {
                return Ok(Image {
                    program: Arc::new(program),
                    path: whole,
                    words,
                    argc,
                });
            };
            let (interpreter, argument) = script_line(line).ok_or(Errno::ENOEXEC)?;
            let mut longer = Words::new()?;
            longer.push(interpreter)?;
            if !argument.is_empty() {
                longer.push(argument)?;
            }
            longer.push(&script)?;
            let first = longer.count;
            for word in words.iter().skip(argc.min(1)) {
                longer.push(word)?;
            }
            argc = first + argc.saturating_sub(1);
            words = longer;
            script = interpreter.to_vec();
        }
        Err(Errno::ELOOP)
    }

    fn target(&self) -> Result<Target> {
        let machines = [
            Machine::X86_64,
            Machine::Aarch64,
            Machine::Arm,
            Machine::Riscv64,
        ];
        let machine = machines
            .into_iter()
            .find(|machine| machine.number() == A::ELF_MACHINE)
            .ok_or(Errno::ENOEXEC)?;
        Ok(Target {
            machine,
            page_shift: crate::memory::page_shift::<A>(),
            user: A::USER_START as u64..self.system.arch.user_end() as u64,
        })
    }

    /// Reads a file's headers: the first bytes, then the program header table.
    fn read_headers(&self, data: &FileData<A>, table: &mut Vec<u8>) -> Result<Header> {
        let mut first = [0; Header::BYTES];
        let n = self.read_head(data, 0, &mut first)?;
        let header = Header::parse(&first[..n], data.size(), &self.target()?)
            .map_err(|error| Errno(error.errno()))?;
        let range = header.table();
        if range.len > MAX_TABLE_BYTES {
            return Err(Errno::ENOEXEC);
        }
        table
            .try_reserve_exact(range.len as usize)
            .map_err(|_| Errno::ENOMEM)?;
        table.resize(range.len as usize, 0);
        if self.read_head(data, range.offset, table)? != table.len() {
            return Err(Errno::ENOEXEC);
        }
        Ok(header)
    }

    fn build_space(&self, image: &Image<A>, given_path: &[u8]) -> Result<(Space<A>, usize, usize)> {
        let elf = |error: mm_elf::ElfError| Errno(error.errno());
        // As on Linux, programs that choose no place stand at two thirds of user space,
        // their interpreters at half of it.
        let page = !((1usize << crate::memory::page_shift::<A>()) - 1);
        let end = self.system.arch.user_end();
        let (program_base, interpreter_base) = ((end / 3 * 2) & page, (end / 2) & page);
        let data = image.program.data()?;
        let mut space = Space::new(self.system, image.program.clone())?;
        let limits = self.task.process.shared.lock().limits;
        space.set_limits(&limits);
        let mut table = Vec::new();
        let header = self.read_headers(data, &mut table)?;
        let plan = header
            .check(&table)
            .and_then(|checked| checked.plan(program_base as u64))
            .map_err(elf)?;
        self.system.load_image(&space, data, &plan)?;
        let mut interpreter_table = Vec::new();
        let mut interpreter = None;
        if let Some(range) = plan.interpreter() {
            let mut path = Vec::new();
            path.try_reserve_exact(range.len as usize)
                .map_err(|_| Errno::ENOMEM)?;
            path.resize(range.len as usize, 0);
            self.read_head(data, range.offset, &mut path)?;
            let (found, _) =
                self.find_program(mm_elf::segment::interpreter_path(&path).map_err(elf)?)?;
            let data = found.data()?;
            let header = self.read_headers(data, &mut interpreter_table)?;
            let plan = header
                .check(&interpreter_table)
                .and_then(|checked| checked.plan(interpreter_base as u64))
                .map_err(elf)?;
            self.system.load_image(&space, data, &plan)?;
            interpreter = Some(plan);
        }
        space.set_heap(&plan)?;
        let top = end & page;
        space.map_stack(top, FIRST_STACK_BYTES, &plan)?;
        let sp = self.write_stack(&space, image, given_path, &plan, interpreter.as_ref(), top)?;
        space.set_stack_start(sp);
        let start = plan.start(interpreter.as_ref()).map_err(elf)?;
        Ok((space, start as usize, sp))
    }

    fn write_stack(
        &self,
        space: &Space<A>,
        image: &Image<A>,
        path: &[u8],
        plan: &Plan<'_>,
        interpreter: Option<&Plan<'_>>,
        top: usize,
    ) -> Result {
        let mut random = [0; 16];
        self.system.arch.random(&mut random);
        let (hwcap, hwcap2) = self.system.arch.hardware_capabilities();
        let process = ProcessFacts {
            random,
            hwcap: [hwcap as u64, hwcap2 as u64],
            clock_ticks: 100,
            platform: plan.image().header().target().machine.platform(),
            path,
            ..ProcessFacts::default()
        };
        let stack = Stack {
            argv: image.words.iter().take(image.argc),
            envp: image.words.iter().skip(image.argc),
            process,
            image: ImageFacts::new(plan, interpreter),
        };
        let built = stack
            .image(top as u64, STACK_LIMIT)
            .map_err(|error| Errno(error.errno()))?;
        self.system.write_stack(space, &built)?;
        Ok(built.sp() as usize)
    }

    /// Answers descriptors that no other process has: what exec closes, it closes for itself
    /// (Linux: `unshare_files`). Called when no other thread is left that could share them anew.
    ///
    /// # Errors
    /// `ENOMEM`; as the other threads are gone, so is the process.
    fn own_files(&self) -> Result<Files<A>> {
        let files = self.task.process.files()?;
        // One reference is the process's, one is here; who only looks has one, too, for a moment.
        if Arc::strong_count(&files) <= 2 {
            return Ok(files);
        }
        let own = files.lock().duplicate().inspect_err(|_| {
            self.system
                .end_process(&self.task.process, Status::Killed(SIGKILL));
        })?;
        Ok(Arc::new(Mutex::new(own)))
    }

    /// Gives the only thread that is left the number of the process (Linux: `de_thread`).
    fn take_number(&self) {
        let pid = self.task.process.pid;
        let mut tasks = self.system.tasks.lock();
        if let Some(task) = tasks.remove(&self.task.tid()) {
            task.number.store(pid, Ordering::Relaxed);
            tasks.insert(pid, task);
        }
    }

    fn end_other_threads(&self) -> Result<()> {
        let process = &self.task.process;
        {
            let mut shared = process.shared.lock();
            if shared.loses_threads() {
                // Another thread's exec, or the end of all: this thread is to end.
                return Err(Errno::RESTART);
            }
            shared.exec_by = Some(self.task.tid());
        }
        for other in self.system.threads_of(process) {
            if !Arc::ptr_eq(&other, self.task) {
                self.system.end_thread(&other);
            }
        }
        let alone = || {
            let single = process.shared.lock().lives.threads() == 1;
            (single || self.task.own.lock().ends).then_some(())
        };
        let _ = self
            .system
            .wait_until(Channel::Child(process.pid), None, Patience::Patient, alone);
        if self.task.own.lock().ends {
            Err(Errno::RESTART)
        } else {
            Ok(())
        }
    }

    fn take_over(&self, image: &Image<A>, space: Space<A>, files: Files<A>) {
        let process = &self.task.process;
        if let Some(space) = process.space() {
            self.system.give_up_futexes(self.task, &space);
            let most = space.usage().most_resident;
            let mut shared = process.shared.lock();
            shared.most_resident = shared.most_resident.max(most);
        }
        let old = {
            let mut shared = process.shared.lock();
            shared.program = image.path.clone();
            shared.set_name(&image.path);
            shared.arguments.clear();
            for word in image.words.iter().take(image.argc) {
                if shared.arguments.len() + word.len() < HEAD_BYTES {
                    shared.arguments.extend_from_slice(word);
                    shared.arguments.push(0);
                }
            }
            for action in shared
                .actions
                .iter_mut()
                .filter(|action| action.handler != IGNORE)
            {
                *action = Action::default();
            }
            shared.holds_parent = false;
            shared.exec_by = None;
            let files = shared.files.replace(files.clone());
            (shared.space.replace(Arc::new(space)), files)
        };
        {
            let mut own = self.task.own.lock();
            own.clear_at_end = 0;
            own.signal_stack = None;
        }
        self.system.wake(Channel::Vfork(process.pid));
        loop {
            let closed = files.lock().remove_on_exec();
            if closed.is_none() {
                break;
            }
        }
        self.system.activate(self.task);
        self.system.arch.reset_fp_state();
        drop(old);
    }
}

#[cfg(test)]
mod tests {
    use super::script_line;

    #[test]
    fn a_script_names_its_interpreter() {
        let text = |line: &str| {
            let mut head = [0; 40];
            head[..line.len()].copy_from_slice(line.as_bytes());
            let found = script_line(&head).map(|(interpreter, argument)| {
                [interpreter, argument].map(|word| String::from_utf8(word.to_vec()).unwrap())
            });
            found.map(|[interpreter, argument]| format!("{interpreter}|{argument}"))
        };
        assert_eq!(text("/bin/sh\nrest").as_deref(), Some("/bin/sh|"));
        assert_eq!(text(" /bin/sh  -e x \n").as_deref(), Some("/bin/sh|-e x"));
        assert_eq!(text("/bin/sh").as_deref(), Some("/bin/sh|"));
        assert_eq!(text("\t/bin/sh\t-e").as_deref(), Some("/bin/sh|-e"));
        assert_eq!(text("/bin/sh\r\n").as_deref(), Some("/bin/sh\r|"));
        assert_eq!(text(" \n"), None);
        assert_eq!(text(""), None);
        // Nobody knows where it would end.
        assert_eq!(script_line(&[b'x'; 40]), None);
        assert!(script_line(b"x yyyyyyyyyyyyy").is_some());
    }
}
