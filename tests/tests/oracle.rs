//! Random scripts against the oracle: every verb, every format.
//!
//! Each step does one thing in the world and in the model, and compares what
//! came of it: errno, address, signal, bytes. Then the areas of the process are
//! compared page by page; every few steps the text of the maps, the contents
//! of every page, and the global check. A failure prints the seed and the last
//! steps.

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::fault::Signal as LibSignal;
use mm_core::format::PageTableFormat;
use mm_core::format::tiny::{SetsAccessed, SetsBoth, SetsNothing, Tiny, TinyFacts};
use mm_core::platform::Platform;
use mm_core::prot::{Access, Prot};
use mm_core::space::{Advice, LockKind, MapFlags, MapRequest, RemapFlags, SpaceLimits, VmaInfo};
use mm_core::sync::AtomicU64;
use mm_core::vma::VmaFlags;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::mmu::{Sets, TinyWalker};
use mm_testkit::oracle::{Attr, Back, Bounds, Model, ObjectModel, Process, Remap, Signal, Where};
use mm_testkit::platform::on_cpu;
use mm_testkit::random::Random;
use mm_testkit::world::{File, Space, Stopped, World};
use std::collections::VecDeque;
use std::ops::Range;

const CPUS: usize = 3;
const PROCESSES: usize = 4;

/// Where a script plays.
struct Field {
    /// Stretches of pages in which addresses are chosen.
    windows: Vec<(usize, usize)>,
    bounds: Bounds,
}

/// One process, as it is and as it should be.
struct Both {
    space: Space,
    model: Process,
}

struct Script {
    machine: &'static str,
    /// Bytes of a page.
    page: usize,
    world: World,
    field: Field,
    model: Model,
    files: Vec<(usize, File)>,
    all: Vec<Both>,
    dice: Random,
    seed: u64,
    step: usize,
    trace: VecDeque<String>,
}

impl Drop for Script {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (name, seed, step) = (self.machine, self.seed, self.step);
            eprintln!("{name}: seed {seed} failed at step {step}:");
            for line in &self.trace {
                eprintln!("  {line}");
            }
            // Half a verb was done: giving the rest back would panic again.
            std::mem::forget(std::mem::take(&mut self.all));
            std::mem::forget(std::mem::take(&mut self.files));
        }
    }
}

fn errno<T>(r: Result<T, MmError>) -> Result<T, i32> {
    r.map_err(MmError::errno)
}

fn signal(s: Stopped) -> Signal {
    match s {
        Stopped::Signal(LibSignal::SegvMapErr(_)) => Signal::MapErr,
        Stopped::Signal(LibSignal::SegvAccErr(_)) => Signal::AccErr,
        Stopped::Signal(LibSignal::BusAdrErr(_)) => Signal::Bus,
        other => panic!("{other:?}"),
    }
}

const PROTS: [Prot; 9] = [
    Prot::EXEC,
    Prot::RW,
    Prot::RW,
    Prot::RW,
    Prot::READ,
    Prot::RX,
    Prot::RWX,
    Prot::NONE,
    Prot::WRITE,
];

impl Script {
    fn new(machine: &Machine, field: Field, seed: u64) -> Self {
        let page = machine.page_size();
        // 24 MiB, and as many frames as it takes where pages are large.
        let world = machine.world((6144 * 4096 / page).max(3072), CPUS, seed);
        let mut model = Model::new(field.bounds);
        let mut files = Vec::new();
        for (id, pages) in [10, 3, 40].into_iter().enumerate() {
            let len = pages * page + 100 * id;
            let bytes: Vec<u8> = (0..len).map(|i| (i / page * 7 + i % 253) as u8).collect();
            let key = 100 + id as u64;
            files.push((id, world.file(key, &bytes)));
            model.objects.push(ObjectModel::new(page, key, &bytes));
        }
        let mut script = Self {
            machine: machine.name,
            page,
            world,
            field,
            model,
            files,
            all: Vec::new(),
            dice: Random::new(seed),
            seed,
            step: 0,
            trace: VecDeque::new(),
        };
        script.exec();
        script
    }

    /// Begins a process.
    fn exec(&mut self) {
        let space = self.world.space();
        let b = self.field.bounds;
        let byte = |page: usize| VirtAddr::new(page * self.page);
        space.set_limits(SpaceLimits {
            min_addr: byte(b.min),
            mmap_base: byte(b.base),
            stack: b.stack * self.page,
            locked: usize::MAX,
            stack_guard: b.guard * self.page,
            ..SpaceLimits::for_format(self.world.platform().format())
        });
        let start = self.field.windows[0].1 * self.page + 0x123;
        space.set_brk_start(VirtAddr::new(start));
        let model = Process {
            brk: (start, start),
            ..Process::default()
        };
        self.all.push(Both { space, model });
    }

    fn say(&mut self, line: String) {
        if self.trace.len() == 40 {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{}: {line}", self.step));
    }

    /// Chooses a page: of a window, or near what is mapped.
    fn page(&mut self, p: usize) -> usize {
        let mapped = self.all[p].model.pages.len();
        if mapped > 0 && self.dice.chance(50) {
            let nth = self.dice.below(mapped as u64) as usize;
            let page = *self.all[p].model.pages.keys().nth(nth).unwrap();
            return (page + self.dice.below(5) as usize).saturating_sub(2);
        }
        let windows = self.field.windows.len() as u64;
        let (low, high) = self.field.windows[self.dice.below(windows) as usize];
        low + self.dice.below((high - low) as u64) as usize
    }

    fn prot(&mut self) -> Prot {
        self.dice.pick(&PROTS)
    }

    fn bytes(&mut self) -> usize {
        let pages = 1 + self.dice.below(12) as usize;
        match self.dice.below(20) {
            0 => 0,
            1 => pages * self.page - 1,
            2 => 1,
            _ => pages * self.page,
        }
    }

    fn one_step(&mut self) {
        self.step += 1;
        let p = self.dice.below(self.all.len() as u64) as usize;
        let cpu = self.dice.below(CPUS as u64) as usize;
        match self.dice.below(100) {
            0..14 => self.map(p, cpu),
            14..20 => self.unmap(p, cpu),
            20..30 => self.protect(p, cpu),
            30..38 => self.advise(p, cpu),
            38..41 => self.brk(p, cpu),
            41..45 => self.fork(p, cpu),
            45..48 => self.exit(p),
            48..52 => self.populate(p, cpu),
            52..56 => self.resize(),
            56..66 => self.copy(p, cpu),
            66..70 => self.fetch(p, cpu),
            70..82 => self.store(p, cpu),
            82..90 => self.remap(p, cpu),
            90..93 => self.rearrange(p, cpu),
            // It stays until the process ends.
            93 => self.seal(p, cpu),
            94..96 => self.lock(p, cpu),
            _ => self.load(p, cpu),
        }
        let p = p.min(self.all.len() - 1);
        self.compare(p);
        if self.step % 32 == 0 {
            self.check();
        }
    }

    fn map(&mut self, p: usize, cpu: usize) {
        let (page, len) = (self.page(p), self.bytes());
        let off = if self.dice.chance(4) { 8 } else { 0 };
        let place = match self.dice.below(8) {
            0 => Where::Hint(None),
            1 => Where::Hint(Some(self.dice.below(9) as usize * self.page)),
            2 | 3 => Where::Hint(Some(page * self.page + off)),
            4 | 5 => Where::NoReplace(page * self.page + off),
            _ => Where::Fixed(page * self.page + off),
        };
        let prot = self.prot();
        let may = match self.dice.below(12) {
            0 => Prot::READ,
            1 => Prot::RW,
            _ => Prot::RWX,
        };
        let mut attr = Attr {
            prot,
            may,
            shared: self.dice.chance(30),
            grows: self.dice.chance(8),
            locked: self.dice.chance(4),
            on_fault: false,
            dont_copy: false,
            wipe: false,
            sealed: false,
            pace: 0,
            back: Back::Anon,
        };
        let mut flags = MapFlags::empty();
        flags.set(MapFlags::SHARED, attr.shared);
        flags.set(MapFlags::GROWS_DOWN, attr.grows);
        flags.set(MapFlags::LOCKED, attr.locked);
        let file = if self.dice.chance(45) {
            let nth = self.dice.below(self.files.len() as u64) as usize;
            let (id, file) = &self.files[nth];
            let pgoff = self.dice.below(12);
            attr.back = Back::Object { id: *id, pgoff };
            Some((file.try_clone().unwrap(), pgoff))
        } else {
            if attr.shared {
                self.model
                    .objects
                    .push(ObjectModel::zeros(self.page, len.div_ceil(self.page)));
                let id = self.model.objects.len() - 1;
                attr.back = Back::Object { id, pgoff: 0 };
            }
            None
        };
        self.say(format!("{p} map {place:x?} {len:#x} {attr:?}"));
        let mut request = match &file {
            Some((file, pgoff)) => MapRequest::private(file, pgoff * self.page as u64, len, prot),
            None => MapRequest::anonymous(len, prot),
        }
        .with(flags)
        .max_prot(may);
        match place {
            Where::Hint(None) => {}
            Where::Hint(Some(a)) => request = request.hint(VirtAddr::new(a)),
            Where::Fixed(a) => request = request.fixed(VirtAddr::new(a)),
            Where::NoReplace(a) => {
                request = request
                    .hint(VirtAddr::new(a))
                    .with(MapFlags::FIXED_NOREPLACE);
            }
        }
        let both = &mut self.all[p];
        let got = errno(on_cpu(cpu, || both.space.map(&request)));
        let want = self.model.map(&mut both.model, place, len, attr);
        assert_eq!(
            got.map(|a| a.as_usize() / self.page),
            want,
            "{}",
            both.space.maps()
        );
    }

    fn unmap(&mut self, p: usize, cpu: usize) {
        let (page, len) = (self.page(p), self.bytes());
        let at = page * self.page + usize::from(self.dice.chance(4));
        self.say(format!("{p} unmap {at:#x} {len:#x}"));
        let both = &mut self.all[p];
        let got = errno(on_cpu(cpu, || both.space.unmap(VirtAddr::new(at), len)));
        assert_eq!(got, self.model.unmap(&mut both.model, at, len));
    }

    fn remap(&mut self, p: usize, cpu: usize) {
        let at = self.page(p) * self.page + usize::from(self.dice.chance(4));
        let area = self.all[p].space.find(VirtAddr::new(at));
        let area_end = area.map(|area| area.range.end().as_usize());
        // Mostly up to the end of the area: only there it can grow.
        let rest = area_end.map_or(0, |end| end * self.page - at);
        let old_len = match self.dice.below(8) {
            0 => 0,
            1 => self.bytes(),
            2 | 3 => rest.min(self.bytes()),
            _ => rest,
        };
        let new_len = match self.dice.below(3) {
            0 => old_len,
            1 => old_len + self.bytes(),
            _ => self.bytes(),
        };
        let off = usize::from(self.dice.chance(4));
        let how = Remap {
            may_move: self.dice.chance(80),
            fixed: self.dice.chance(50),
            dont_unmap: self.dice.chance(20),
            to: self.page(p) * self.page + off,
        };
        // A file's offsets stay within what `off_t` can say.
        let new_len = new_len.min(24 * self.page);
        self.say(format!(
            "{p} remap {at:#x} {old_len:#x} {new_len:#x} {how:x?}"
        ));
        let mut flags = RemapFlags::empty();
        flags.set(RemapFlags::MAY_MOVE, how.may_move);
        flags.set(RemapFlags::FIXED, how.fixed);
        flags.set(RemapFlags::DONT_UNMAP, how.dont_unmap);
        let to = Some(VirtAddr::new(how.to));
        let both = &mut self.all[p];
        let got = errno(on_cpu(cpu, || {
            both.space
                .remap(VirtAddr::new(at), old_len, new_len, flags, to)
        }));
        let range = (at, old_len);
        let want = self
            .model
            .remap(&mut both.model, range, new_len, how, area_end);
        assert_eq!(
            got.map(|a| a.as_usize() / self.page),
            want,
            "{}",
            both.space.maps()
        );
    }

    fn protect(&mut self, p: usize, cpu: usize) {
        let (page, len, prot) = (self.page(p), self.bytes(), self.prot());
        let at = page * self.page + usize::from(self.dice.chance(4));
        self.say(format!("{p} protect {at:#x} {len:#x} {prot}"));
        let both = &mut self.all[p];
        let got = errno(on_cpu(cpu, || {
            both.space.protect(VirtAddr::new(at), len, prot)
        }));
        assert_eq!(got, self.model.protect(&mut both.model, at, len, prot));
    }

    fn advise(&mut self, p: usize, cpu: usize) {
        let (page, len) = (self.page(p), self.bytes());
        let at = page * self.page + usize::from(self.dice.chance(4));
        let advice = self.dice.pick(&[
            Advice::DontNeed,
            Advice::DontNeed,
            Advice::DontNeedLocked,
            Advice::Remove,
            Advice::Remove,
            Advice::DontFork,
            Advice::DoFork,
            Advice::WipeOnFork,
            Advice::KeepOnFork,
            Advice::Sequential,
            Advice::Random,
            Advice::Normal,
        ]);
        self.say(format!("{p} advise {at:#x} {len:#x} {advice:?}"));
        let both = &mut self.all[p];
        let got = errno(on_cpu(cpu, || {
            both.space.advise(VirtAddr::new(at), len, advice)
        }));
        assert_eq!(got, self.model.advise(&mut both.model, at, len, advice));
    }

    fn rearrange(&mut self, p: usize, cpu: usize) {
        let at = self.page(p) * self.page + usize::from(self.dice.chance(20));
        // Mostly within one area.
        let area = self.all[p].space.find(VirtAddr::new(at));
        let rest = area.map_or(0, |area| area.range.end().as_usize() * self.page - at);
        let len = self.bytes();
        let len = if self.dice.chance(80) {
            len.min(rest)
        } else {
            len
        };
        let odd = u64::from(self.dice.chance(4));
        let offset = self.dice.below(12) * self.page as u64 + odd;
        self.say(format!("{p} rearrange {at:#x} {len:#x} {offset:#x}"));
        let both = &mut self.all[p];
        let got = errno(on_cpu(cpu, || {
            both.space.rearrange(VirtAddr::new(at), len, offset)
        }));
        let want = self.model.rearrange(&mut both.model, at, len, offset);
        assert_eq!(got, want, "{}", both.space.maps());
    }

    fn seal(&mut self, p: usize, cpu: usize) {
        let (page, len) = (self.page(p), self.bytes().min(6 * self.page));
        let at = page * self.page + usize::from(self.dice.chance(4));
        self.say(format!("{p} seal {at:#x} {len:#x}"));
        let both = &mut self.all[p];
        let got = errno(on_cpu(cpu, || both.space.seal(VirtAddr::new(at), len)));
        assert_eq!(got, self.model.seal(&mut both.model, at, len));
    }

    /// Locks and unlocks ranges, and now and then all there is or comes.
    fn lock(&mut self, p: usize, cpu: usize) {
        let now = (LockKind::Now, (true, false));
        let kinds = [now, (LockKind::OnFault, (true, true))];
        let (page, len) = (self.page(p), self.bytes());
        let (kind, how) = self.dice.pick(&kinds);
        let (later, want_later) = self.dice.pick(&kinds);
        let at = page * self.page + usize::from(self.dice.chance(4));
        let (what, both) = (self.dice.below(20), self.dice.chance(50));
        self.say(format!(
            "{p} lock {what} {at:#x} {len:#x} {kind:?} {later:?}"
        ));
        let Both { space, model } = &mut self.all[p];
        let (space, addr) = (&*space, VirtAddr::new(at));
        let (got, want) = on_cpu(cpu, || match what {
            0..10 => (
                space.lock(addr, len, kind),
                self.model.lock(model, at, len, how),
            ),
            10..15 => (
                space.unlock(addr, len),
                self.model.lock(model, at, len, (false, false)),
            ),
            15..18 => {
                self.model.lock_all(model, Some((false, false)), None);
                (space.unlock_all(), Ok(()))
            }
            _ => {
                let current = (what == 18).then_some((kind, how));
                let later = (what != 18 || both).then_some((later, want_later));
                let first = |kind: Option<(LockKind, _)>| kind.map(|kind| kind.0);
                let second = |kind: Option<(LockKind, _)>| kind.map(|kind| kind.1);
                self.model.lock_all(model, second(current), second(later));
                (space.lock_all(first(current), first(later)), Ok(()))
            }
        });
        assert_eq!(errno(got), want, "{}", space.maps());
    }

    fn brk(&mut self, p: usize, cpu: usize) {
        let (start, _) = self.all[p].model.brk;
        let to =
            (start + self.dice.below(12 * self.page as u64) as usize).saturating_sub(self.page);
        self.say(format!("{p} brk {to:#x}"));
        let attr = Attr {
            prot: Prot::RW,
            may: Prot::RWX,
            shared: false,
            grows: false,
            locked: false,
            on_fault: false,
            dont_copy: false,
            wipe: false,
            sealed: false,
            pace: 0,
            back: Back::Anon,
        };
        let both = &mut self.all[p];
        let got = on_cpu(cpu, || both.space.brk(Some(VirtAddr::new(to))));
        assert_eq!(got.as_usize(), self.model.brk(&mut both.model, to, attr));
    }

    fn fork(&mut self, p: usize, cpu: usize) {
        if self.all.len() == PROCESSES {
            return self.load(p, cpu);
        }
        self.say(format!("{p} fork"));
        let space = on_cpu(cpu, || self.all[p].space.fork()).unwrap();
        let model = self.model.fork(&self.all[p].model);
        self.all.push(Both { space, model });
        self.compare(self.all.len() - 1);
    }

    fn exit(&mut self, p: usize) {
        self.say(format!("{p} exit"));
        drop(self.all.swap_remove(p));
        if self.all.is_empty() {
            self.exec();
        }
    }

    fn populate(&mut self, p: usize, cpu: usize) {
        let (page, len) = (self.page(p), self.bytes());
        self.say(format!("{p} populate {page:#x} {len:#x}"));
        let both = &mut self.all[p];
        let at = page * self.page;
        let got = self.world.finish(cpu, at, len, |at, len| {
            both.space.populate(VirtAddr::new(at), len)
        });
        let want = self.model.populate(&mut both.model, at, len);
        assert_eq!(
            got,
            want.map(|done| done.min(len.next_multiple_of(self.page)))
        );
    }

    fn resize(&mut self) {
        let nth = self.dice.below(self.files.len() as u64) as usize;
        let size = self.dice.below(16 * self.page as u64) as usize;
        let id = self.files[nth].0;
        self.say(format!("resize {id} {size:#x}"));
        let models = self.all.iter_mut().map(|b| &mut b.model);
        self.model.resize(models, id, size);
        self.world.resize(&self.files[nth].1, size);
        (0..self.all.len()).for_each(|p| self.compare(p));
    }

    /// The kernel copies to or from the program.
    fn copy(&mut self, p: usize, cpu: usize) {
        let at = self.page(p) * self.page + self.dice.below(self.page as u64) as usize;
        let len = 1 + self.dice.below(2 * self.page as u64) as usize;
        let both = &mut self.all[p];
        if self.dice.chance(50) {
            let line = format!("{}: {p} read {at:#x} {len:#x}", self.step);
            self.trace.push_back(line);
            let mut want_bytes = vec![0; len];
            let want = self.model.copy(
                &mut both.model,
                at,
                len,
                Access::Read,
                |m, p, n, offset, i| want_bytes[i] = m.byte(p, n, offset),
            );
            let mut bytes = vec![0; len];
            let got = self.world.finish(cpu, at, len, |here, len| {
                let i = here - at;
                both.space.read(VirtAddr::new(here), &mut bytes[i..i + len])
            });
            assert_eq!(got, want);
            assert!(bytes == want_bytes, "other bytes");
        } else {
            let line = format!("{}: {p} write {at:#x} {len:#x}", self.step);
            self.trace.push_back(line);
            let fill = self.dice.next() as u8;
            let bytes: Vec<u8> = (0..len).map(|i| fill.wrapping_add(i as u8)).collect();
            let want = self.model.copy(
                &mut both.model,
                at,
                len,
                Access::Write,
                |m, p, n, offset, i| m.set_byte(p, n, offset, bytes[i]),
            );
            let got = self.world.finish(cpu, at, len, |here, len| {
                let i = here - at;
                both.space.write(VirtAddr::new(here), &bytes[i..i + len])
            });
            assert_eq!(got, want);
        }
    }

    fn fetch(&mut self, p: usize, cpu: usize) {
        let n = self.page(p);
        self.say(format!("{p} fetch {:#x} on {cpu}", n * self.page));
        let both = &mut self.all[p];
        let want = self.model.access(&mut both.model, n, Access::Exec);
        let got = self.world.fetch(cpu, &both.space, n * self.page);
        assert_eq!(got.map_err(signal), want);
    }

    fn store(&mut self, p: usize, cpu: usize) {
        let (n, offset) = (self.page(p), self.dice.below(self.page as u64) as usize);
        let byte = self.dice.next() as u8;
        self.say(format!(
            "{p} store {:#x} {byte:#x} on {cpu}",
            n * self.page + offset
        ));
        let both = &mut self.all[p];
        let want = self.model.access(&mut both.model, n, Access::Write);
        let got = self
            .world
            .poke(cpu, &both.space, n * self.page + offset, byte);
        assert_eq!(got.map_err(signal), want);
        if want.is_ok() {
            self.model.set_byte(&mut both.model, n, offset, byte);
        }
    }

    fn load(&mut self, p: usize, cpu: usize) {
        let (n, offset) = (self.page(p), self.dice.below(self.page as u64) as usize);
        self.say(format!("{p} load {:#x} on {cpu}", n * self.page + offset));
        self.load_at(p, cpu, n, offset);
    }

    fn load_at(&mut self, p: usize, cpu: usize, n: usize, offset: usize) {
        let both = &mut self.all[p];
        let want = self.model.access(&mut both.model, n, Access::Read);
        let want = want.map(|()| self.model.byte(&both.model, n, offset));
        let got = self.world.peek(cpu, &both.space, n * self.page + offset);
        assert_eq!(got.map_err(signal), want);
    }

    /// Compares the areas of a process with its pages.
    fn compare(&self, p: usize) {
        let Both { space, model } = &self.all[p];
        let mut pages = model.pages.iter();
        let mut before: Option<VmaInfo> = None;
        for area in space.areas() {
            for (i, n) in area.range.iter().enumerate() {
                let (&at, page) = pages.next().expect("an area where nothing is mapped");
                assert_eq!(at, n.as_usize(), "{}", space.maps());
                let a = &page.attr;
                let is = |f| area.flags.contains(f);
                let got = Attr {
                    prot: area.prot(),
                    may: area.flags.may(),
                    shared: is(VmaFlags::SHARED),
                    grows: is(VmaFlags::GROWS_DOWN),
                    locked: is(VmaFlags::LOCKED),
                    on_fault: is(VmaFlags::LOCK_ON_FAULT),
                    dont_copy: is(VmaFlags::DONT_COPY),
                    wipe: is(VmaFlags::WIPE_ON_FORK),
                    sealed: is(VmaFlags::SEALED),
                    pace: u8::from(is(VmaFlags::SEQ_READ)) + 2 * u8::from(is(VmaFlags::RAND_READ)),
                    back: a.back,
                };
                assert_eq!(got, *a, "page {n}");
                let (_, offset, key) = self.model.shown(a);
                let i = if area.key.is_some() { i as u64 } else { 0 };
                assert_eq!(area.offset + i * self.page as u64, offset, "page {n}");
                assert_eq!(area.key.unwrap_or(0), key, "page {n}");
            }
            // Shared areas have no anonymous pages: nothing may keep them apart.
            let would_merge = |b: &VmaInfo| {
                b.range.end() == area.range.start()
                    && b.flags == area.flags
                    && b.key == area.key
                    && b.key.is_some_and(|k| k != 0)
                    && area.flags.contains(VmaFlags::SHARED)
                    && !model.seams.contains(&area.range.start().as_usize())
            };
            if let Some(b) = before.filter(would_merge) {
                let next = b.offset + (b.range.pages() * self.page) as u64;
                assert_ne!(next, area.offset, "not merged: {}", space.maps());
            }
            before = Some(area);
        }
        assert!(pages.next().is_none(), "pages without an area");
        let sum = |f: fn(&Attr) -> bool| model.pages.values().filter(|p| f(&p.attr)).count();
        let counts = space.counts();
        assert_eq!(counts.total.get(), model.pages.len());
        assert_eq!(counts.locked.get(), sum(|a| a.locked));
        let data = sum(|a| a.prot.contains(Prot::WRITE) && !a.shared && !a.grows);
        assert_eq!(counts.data.get(), data);
    }

    /// Compares the text of the maps, and everything with everything.
    fn check(&mut self) {
        for p in 0..self.all.len() {
            let Both { space, model } = &self.all[p];
            let mut pages = model.pages.iter();
            for line in space.maps().to_string().lines() {
                let mut words = line.split_whitespace();
                let mut word = || words.next().unwrap();
                let (start, end) = word().split_once('-').unwrap();
                let number = |s: &str| u64::from_str_radix(s, 16).unwrap();
                let (start, end) = (number(start), number(end));
                let (perms, offset) = (word(), number(word()));
                let key: u64 = { (word(), word()).1.parse().unwrap() };
                let mut at = start;
                while at < end {
                    let (&n, page) = pages.next().unwrap();
                    let mut want = self.model.shown(&page.attr);
                    if page.attr.back == Back::Anon {
                        want.1 = offset + (at - start);
                    }
                    assert_eq!(n as u64 * self.page as u64, at, "{line}");
                    assert_eq!(want, (perms.into(), offset + (at - start), key), "{line}");
                    at += self.page as u64;
                }
            }
        }
        if let Err(wrong) = self.world.check(self.all.iter().map(|b| &b.space)) {
            panic!("{wrong}");
        }
    }

    /// Loads from every page of every process.
    fn look_everywhere(&mut self) {
        for p in 0..self.all.len() {
            for n in self.all[p].model.pages.keys().copied().collect::<Vec<_>>() {
                for offset in [0, 1777, self.page - 1] {
                    self.load_at(p, p % CPUS, n, offset);
                }
            }
        }
    }

    fn play(mut self, steps: usize) {
        while self.step < steps {
            self.one_step();
            if self.step % 256 == 0 {
                self.look_everywhere();
                self.check();
            }
        }
        self.look_everywhere();
        self.check();
        self.all.clear();
        self.files.clear();
        self.world.assert_empty();
    }
}

/// Windows at the borders between tables of two levels, and at the end of user
/// space.
fn field(machine: &Machine) -> Field {
    let format = machine.format();
    let end = format.user_end().as_usize();
    let mut windows = Vec::new();
    for level in [3.min(format.levels()), format.levels()] {
        let border = format.entry_pages(level);
        let border = border.max(64usize.next_multiple_of(border));
        let window = (border - 30, border + 34);
        if border + 34 < end && !windows.contains(&window) {
            windows.push(window);
        }
    }
    windows.push((end - 24, end + 2));
    Field {
        windows,
        bounds: Bounds {
            page: machine.page_size(),
            min: 16,
            end,
            base: end - (1 << 16),
            guard: 3,
            stack: 1 << 12,
            exec_only: format.has_exec_only(),
            no_exec: format.forbids_exec(),
        },
    }
}

#[test]
fn scripts_on_every_machine() {
    on_every_machine(|machine| {
        for seed in machine.seeds(2) {
            Script::new(machine, field(machine), seed).play(1500);
        }
    });
}

/// 512 pages in three levels, half of the root the kernel's: everything is
/// near an end of something.
fn play_small<T: TinyFacts>(name: &'static str, sets: Sets, invalid: bool, seeds: Range<u64>) {
    let format = Tiny::<u64, T>::new(3, 3).with_kernel_half(4);
    let walker = TinyWalker::<AtomicU64>::new(3, 3, sets, invalid);
    let machine = Machine::new(name, format, walker);
    for seed in seeds {
        let field = Field {
            windows: vec![(20, 90), (240, 258)],
            bounds: Bounds {
                page: machine.page_size(),
                min: 2,
                end: 256,
                base: 250,
                guard: 2,
                stack: 1 << 12,
                exec_only: true,
                no_exec: true,
            },
        };
        Script::new(&machine, field, seed).play(1500);
    }
}

#[test]
fn scripts_on_a_small_machine_that_sets_both_bits() {
    play_small::<SetsBoth>("small, sets both bits", Sets::Both, false, 20..23);
}

#[test]
fn scripts_on_a_small_machine_that_demands_break_before_make() {
    play_small::<SetsAccessed>(
        "small, breaks before it makes",
        Sets::Accessed,
        false,
        30..33,
    );
}

#[test]
fn scripts_on_a_small_machine_that_remembers_invalid_entries() {
    play_small::<SetsNothing>(
        "small, remembers invalid entries",
        Sets::Nothing,
        true,
        40..43,
    );
}
