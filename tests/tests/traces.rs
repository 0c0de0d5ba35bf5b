//! What real programs asked of Linux, asked of the library: each call of the
//! recordings in `tests/traces`, in its order, on every machine of 64 bits.
//!
//! Once where Linux put things: what it chose freely must be free here, too.
//! Once where the library puts them: as high as possible. After each call, what
//! it answered, what is mapped around it and the tree are compared with the
//! model of `oracle.rs`; now and then, everything is.
#![cfg(target_pointer_width = "64")]

use mm_core::addr::VirtAddr;
use mm_core::error::MmError;
use mm_core::object::PagerFacts;
use mm_core::platform::Platform;
use mm_core::prot::{Access, Prot};
use mm_core::space::{Advice, MapFlags, MapRequest, SpaceLimits};
use mm_core::vma::VmaFlags;
use mm_testkit::format::AnyFormat;
use mm_testkit::machine::{Machine, on_every_machine};
use mm_testkit::oracle::{Attr, Back, Bounds, Model, ObjectModel, Process, Where};
use mm_testkit::platform::TestPlatform;
use mm_testkit::recording::{Bytes, Call, Fit, Map, parse};
use mm_testkit::world::{File, Space, World};
use std::collections::BTreeMap;
use std::ops::Range;

/// What each process did, and how many areas it ended with: where areas became one too seldom,
/// or too often, there are others.
const RECORDINGS: [(&str, &str, &[usize]); 3] = [
    ("gcc", include_str!("../traces/gcc.txt"), &[52, 34, 14]),
    ("node", include_str!("../traces/node.txt"), &[58]),
    ("rustc", include_str!("../traces/rustc.txt"), &[48, 61]),
];

/// Who says where a mapping goes that may go anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Chooser {
    Recording,
    Library,
}

/// Bits of the smallest user space that the recordings fit into.
const USER_BITS: u32 = 38;
/// Pages of each file.
const FILE: usize = 1 << 18;
/// The key of the first file.
const FIRST_KEY: u64 = 100;
/// The byte of a file's page that says which page it is.
const NUMBER: usize = 7;
/// After so many calls everything is compared.
const SOMETIMES: usize = 64;

/// One process, as it is and as it should be.
struct Both {
    space: Space,
    model: Process,
    /// Handles of its threads.
    threads: Vec<Space>,
    /// What is elsewhere than in the recording: start to end, and start here.
    moved: BTreeMap<usize, (usize, usize)>,
}

struct Replay {
    chooser: Chooser,
    fit: Fit,
    page: usize,
    world: World,
    model: Model,
    bounds: Bounds,
    all: BTreeMap<usize, Both>,
    files: Vec<File>,
    now: usize,
    /// How many areas each process had that has ended.
    areas: Vec<usize>,
}

fn errno<T>(r: Result<T, MmError>) -> Result<T, i32> {
    r.map_err(MmError::errno)
}

fn attr(prot: Prot) -> Attr {
    Attr {
        prot,
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
    }
}

impl Replay {
    fn new(machine: &Machine, calls: &[Call], chooser: Chooser) -> Self {
        let page = machine.page_size();
        let world = machine.world((4096 * 4096 / page).max(3072), 2, 1);
        let limits = SpaceLimits::for_format(world.platform().format());
        let bounds = Bounds {
            page,
            min: limits.min_addr.as_usize().div_ceil(page),
            end: machine.user_end() / page,
            base: limits.mmap_base.as_usize() / page,
            guard: limits.stack_guard / page,
            stack: limits.stack / page,
            exec_only: false,
            no_exec: true,
        };
        Self {
            chooser,
            fit: Fit::new(calls, page, machine.user_end()),
            page,
            world,
            model: Model::new(bounds),
            bounds,
            all: BTreeMap::new(),
            files: Vec::new(),
            now: 0,
            areas: Vec::new(),
        }
    }

    fn both(&mut self) -> &mut Both {
        self.all.get_mut(&self.now).expect("a process")
    }

    /// Does one call here and in the model, and compares; returns the stretches
    /// of bytes that it was about.
    fn call(&mut self, call: &Call) -> Vec<Range<usize>> {
        match *call {
            Call::Exec(n) => {
                let both = Both {
                    space: self.world.space(),
                    model: Process::default(),
                    threads: Vec::new(),
                    moved: BTreeMap::new(),
                };
                assert!(self.all.insert(n, both).is_none());
                self.now = n;
                vec![]
            }
            Call::In(n) => {
                self.now = n;
                vec![]
            }
            Call::Image(at, len) => {
                let (at, len) = (self.fit.at(at), self.fit.len(len));
                let request = MapRequest::anonymous(len, Prot::RW);
                vec![self.map(request, Where::NoReplace(at), len, attr(Prot::RW))]
            }
            Call::Thread => {
                let both = self.both();
                both.threads.push(both.space.clone());
                vec![]
            }
            Call::Exit => {
                self.compare(0..usize::MAX);
                let both = self.all.remove(&self.now).expect("a process");
                self.areas.push(both.space.areas().count());
                vec![]
            }
            Call::Brk(to, result) => vec![self.brk(to, result)],
            Call::Map(map) => vec![self.mmap(&map)],
            Call::Unmap(at, len) => self.each(at, len, Self::unmap),
            Call::Protect(at, len, prot) => self.each(at, len, |replay, at, len| {
                let both = replay.all.get_mut(&replay.now).unwrap();
                let got = errno(both.space.protect(VirtAddr::new(at), len, prot));
                assert_eq!(got, Ok(()), "as recorded");
                assert_eq!(replay.model.protect(&mut both.model, at, len, prot), got);
                if prot.contains(Prot::WRITE) {
                    replay.store(at);
                }
            }),
            Call::Advise(at, len, advice) => self.each(at, len, |replay, at, len| {
                let both = replay.all.get_mut(&replay.now).unwrap();
                let got = errno(both.space.advise(VirtAddr::new(at), len, advice));
                assert_eq!(got, Ok(()), "as recorded");
                assert_eq!(replay.model.advise(&mut both.model, at, len, advice), got);
                if advice == Advice::DontNeed {
                    replay.load(at);
                }
            }),
        }
    }

    /// Does something to a stretch of the recording, wherever its parts are here.
    fn each(
        &mut self,
        at: Bytes,
        len: Bytes,
        verb: impl Fn(&mut Self, usize, usize),
    ) -> Vec<Range<usize>> {
        let parts = self.parts(self.fit.at(at), self.fit.len(len));
        for part in &parts {
            verb(self, part.start, part.len());
        }
        parts
    }

    fn parts(&self, at: usize, len: usize) -> Vec<Range<usize>> {
        let moved = &self.all[&self.now].moved;
        let (mut parts, mut from) = (Vec::new(), at);
        while from < at + len {
            let here = moved.range(..=from).next_back().filter(|m| m.1.0 > from);
            let after = moved.range(from + 1..).next().map(|m| *m.0);
            let (start, end) = match here {
                Some((&start, &(end, to))) => (from - start + to, end),
                None => (from, after.unwrap_or(usize::MAX)),
            };
            let part = end.min(at + len) - from;
            parts.push(start..start + part);
            from += part;
        }
        parts
    }

    fn unmap(&mut self, at: usize, len: usize) {
        let both = self.all.get_mut(&self.now).unwrap();
        let got = errno(both.space.unmap(VirtAddr::new(at), len));
        assert_eq!(got, Ok(()), "as recorded");
        assert_eq!(self.model.unmap(&mut both.model, at, len), got);
    }

    fn brk(&mut self, to: Option<Bytes>, result: Bytes) -> Range<usize> {
        let (to, result) = (to.map(|to| self.fit.at(to)), self.fit.at(result));
        let both = self.all.get_mut(&self.now).unwrap();
        if both.model.brk == (0, 0) {
            both.space.set_brk_start(VirtAddr::new(result));
            both.model.brk = (result, result);
        }
        let old = both.model.brk.1;
        let got = both.space.brk(to.map(VirtAddr::new)).as_usize();
        assert_eq!(got, result, "as recorded");
        if let Some(to) = to {
            assert_eq!(self.model.brk(&mut both.model, to, attr(Prot::RW)), got);
            if to > old {
                self.store(to - 1);
            }
        }
        old.min(result)..old.max(result)
    }

    fn mmap(&mut self, map: &Map) -> Range<usize> {
        let len = self.fit.len(map.len);
        let mut attr = Attr {
            shared: map.shared,
            ..attr(map.prot)
        };
        let fixed = map.chosen.is_none();
        let hint = map.hint.map(|hint| self.fit.at(hint));
        let place = match (map.chosen, self.chooser) {
            (Some(at), Chooser::Recording) => Where::NoReplace(self.fit.at(at)),
            (Some(_), Chooser::Library) => Where::Hint(hint),
            (None, _) => {
                let parts = self.parts(hint.expect("a place"), len);
                assert_eq!(parts.len(), 1, "one mapping in another");
                Where::Fixed(parts[0].start)
            }
        };
        let file = map.offset.map(|offset| {
            if !fixed || self.files.is_empty() {
                let key = FIRST_KEY + self.files.len() as u64;
                let facts = PagerFacts {
                    key,
                    ..PagerFacts::memory((FILE * self.page) as u64)
                };
                self.files.push(self.world.mm().new_object(facts).unwrap());
                let mut zeros = ObjectModel::zeros(self.page, FILE);
                zeros.key = key;
                self.model.objects.push(zeros);
            }
            let id = self.files.len() - 1;
            let pgoff = offset.pages as u64;
            attr.back = Back::Object { id, pgoff };
            let offset = self.fit.len(offset) as u64;
            for n in [pgoff, pgoff + (len.div_ceil(self.page) - 1) as u64] {
                self.number(id, n);
            }
            (self.files[id].try_clone().unwrap(), offset)
        });
        let mut flags = MapFlags::empty();
        flags.set(MapFlags::SHARED, map.shared);
        flags.set(MapFlags::NO_RESERVE, map.no_reserve);
        let request = match &file {
            Some((file, offset)) => MapRequest::private(file, *offset, len, map.prot),
            None => MapRequest::anonymous(len, map.prot),
        };
        let here = self.map(request.with(flags), place, len, attr);
        if let Some(at) = map.chosen {
            self.note(self.fit.at(at), here.clone());
        }
        if map.prot.contains(Prot::WRITE) && !map.shared {
            self.store(here.start);
            self.store(here.end - 1);
        }
        if file.is_some() {
            // Whether they were copied or not.
            self.load(here.start + NUMBER);
            self.load(here.end - self.page + NUMBER);
        }
        here
    }

    /// Writes a number into a page of a file that says which it is.
    fn number(&mut self, id: usize, pgoff: u64) {
        let byte = ((id as u64 * 83 + pgoff) % 251 + 1) as u8;
        let at = pgoff * self.page as u64 + NUMBER as u64;
        assert_eq!(self.files[id].write(at, &[byte]).done, 1);
        self.model.objects[id].set_byte(pgoff, NUMBER, byte);
    }

    /// Maps here and in the model.
    fn map(
        &mut self,
        mut request: MapRequest<'_, 'static, TestPlatform<AnyFormat>>,
        place: Where,
        len: usize,
        attr: Attr,
    ) -> Range<usize> {
        let both = self.all.get_mut(&self.now).unwrap();
        let expected = match place {
            Where::Hint(hint) => {
                if let Some(hint) = hint {
                    request = request.hint(VirtAddr::new(hint));
                }
                highest(&both.space, &self.bounds, hint, len)
            }
            Where::NoReplace(at) => {
                let addr = VirtAddr::new(at);
                request = request.hint(addr).with(MapFlags::FIXED_NOREPLACE);
                at
            }
            Where::Fixed(at) => {
                request = request.fixed(VirtAddr::new(at));
                at
            }
        };
        let got = errno(both.space.map(&request)).map(VirtAddr::as_usize);
        assert_eq!(got, Ok(expected), "{}", both.space.maps());
        // Where the library chose, the model has nothing, or says so.
        let place = match place {
            Where::Hint(_) => Where::NoReplace(expected),
            other => other,
        };
        let want = self.model.map(&mut both.model, place, len, attr);
        assert_eq!(want, Ok(expected / self.page));
        expected..expected + len.next_multiple_of(self.page)
    }

    /// Notes where something is that the recording has elsewhere.
    fn note(&mut self, recorded: usize, here: Range<usize>) {
        let end = recorded + here.len();
        let moved = &mut self.both().moved;
        let cut: Vec<_> = moved
            .range(..end)
            .filter(|m| m.1.0 > recorded)
            .map(|(&start, &(end, to))| (start, end, to))
            .collect();
        for (start, old_end, to) in cut {
            moved.remove(&start);
            if start < recorded {
                moved.insert(start, (recorded, to));
            }
            if old_end > end {
                moved.insert(end, (old_end, to + (end - start)));
            }
        }
        moved.insert(recorded, (end, here.start));
    }

    /// A store of the program.
    fn store(&mut self, at: usize) {
        let (n, offset) = (at / self.page, at % self.page);
        let both = self.all.get_mut(&self.now).unwrap();
        let byte = (n % 251 + 1) as u8;
        self.world.poke(n % 2, &both.space, at, byte).unwrap();
        let allowed = self.model.access(&mut both.model, n, Access::Write);
        assert_eq!(allowed, Ok(()));
        self.model.set_byte(&mut both.model, n, offset, byte);
    }

    /// A load of the program, if it may.
    fn load(&mut self, at: usize) {
        let n = at / self.page;
        let both = self.all.get_mut(&self.now).unwrap();
        let got = self.world.peek(n % 2, &both.space, at);
        match self.model.access(&mut both.model, n, Access::Read) {
            Ok(()) => {
                let want = self.model.byte(&both.model, n, at % self.page);
                assert_eq!(got, Ok(want), "{at:#x}");
            }
            Err(_) => assert!(got.is_err(), "{at:#x}"),
        }
    }

    /// Compares what is mapped in a stretch, and a page around it, with the model.
    fn compare(&self, bytes: Range<usize>) {
        let Both { space, model, .. } = &self.all[&self.now];
        let first = (bytes.start / self.page).saturating_sub(1);
        let end = bytes.end.div_ceil(self.page).saturating_add(1);
        let mut pages = model.pages.range(first..end);
        for area in space.areas() {
            let start = area.range.start().as_usize();
            let part = start.max(first)..area.range.end().as_usize().min(end);
            for n in part {
                let (&at, page) = pages.next().expect("an area where nothing is mapped");
                assert_eq!(at, n, "{}", space.maps());
                let is = |f| area.flags.contains(f);
                let got = Attr {
                    prot: area.prot(),
                    shared: is(VmaFlags::SHARED),
                    dont_copy: is(VmaFlags::DONT_COPY),
                    ..page.attr
                };
                assert_eq!(got, page.attr, "page {n:#x}");
                let (_, offset, key) = self.model.shown(&page.attr);
                let i = if area.key.is_some() { n - start } else { 0 };
                let found = area.offset + (i * self.page) as u64;
                assert_eq!((found, area.key.unwrap_or(0)), (offset, key), "{n:#x}");
            }
        }
        assert!(pages.next().is_none(), "pages without an area");
        assert_eq!(space.counts().total.get(), model.pages.len());
        space.validate().unwrap();
    }

    fn play(&mut self, calls: &[Call]) {
        for (nth, call) in calls.iter().enumerate() {
            for part in self.call(call) {
                self.compare(part);
            }
            if nth % SOMETIMES == 0 && self.all.contains_key(&self.now) {
                self.compare(0..usize::MAX);
                let spaces = self.all.values().map(|both| &both.space);
                self.world.check(spaces).unwrap();
            }
        }
        assert!(self.all.is_empty(), "a process that does not end");
        self.files.clear();
        self.world.assert_empty();
    }
}

/// Returns where a mapping should go: at its hint, if that is free, or at the end
/// of the highest gap below the base that holds it.
fn highest(space: &Space, b: &Bounds, hint: Option<usize>, len: usize) -> usize {
    let pages = len.div_ceil(b.page);
    let areas: Vec<_> = space
        .areas()
        .map(|area| (area.range.start().as_usize(), area.range.end().as_usize()))
        .collect();
    if let Some(hint) = hint.map(|hint| hint / b.page) {
        let taken = |area: &(usize, usize)| area.0 < hint + pages && hint < area.1;
        if !areas.iter().any(taken) {
            return hint * b.page;
        }
    }
    let mut high = b.base;
    for &(start, end) in areas.iter().rev() {
        if end <= high && high - end >= pages {
            break;
        }
        high = high.min(start);
    }
    assert!(high - pages >= b.min, "no gap");
    (high - pages) * b.page
}

fn replay(chooser: Chooser) {
    on_every_machine(|machine| {
        if machine.user_end() < 1 << USER_BITS {
            machine.skip("its user space is smaller than what was mapped");
            return;
        }
        for (name, text, areas) in RECORDINGS {
            println!("{}: {name}", machine.name);
            let calls = parse(text);
            let mut replay = Replay::new(machine, &calls, chooser);
            replay.play(&calls);
            assert_eq!(replay.areas, areas, "{name}: areas at the end");
        }
    });
}

#[test]
fn recorded_calls_where_linux_put_things() {
    replay(Chooser::Recording);
}

#[test]
fn recorded_calls_where_the_library_puts_things() {
    replay(Chooser::Library);
}
