//! One space that several CPUs live in, all at once, doing everything.
//!
//! ```text
//!  area:  stripe of CPU 0 | stripe of CPU 1 | ... | commons: a byte of each page for each CPU | word
//!  file:  mapped shared and private; CPU 1 cuts and grows it, CPU 0 maps it anew in place
//!  heap:  CPU 0 moves its end
//! ```
//!
//! What CPUs choose from is the test's: who wants two verbs to meet leaves out most
//! others (Groce et al., "Swarm testing", 2012).
//!
//! Who runs the CPUs is the test's: host threads, or a scheduler that passes
//! turns ([`crate::watch`]). What each CPU does is the seed's. No two CPUs touch
//! the same byte but through the kernel, so programs race nowhere.

use crate::machine::Machine;
use crate::platform::on_cpu;
use crate::random::Random;
use crate::stripe::{Act, Stripe};
use crate::world::{File, Space, Stopped, World};
use mm_core::addr::VirtAddr;
use mm_core::fault::Signal;
use mm_core::prot::Prot;
use mm_core::space::{Advice, MapRequest, Word32};
use std::sync::atomic::{AtomicU32, Ordering};

const FILE_PAGES: usize = 3;
/// The first page of the heap, far below what is mapped.
const HEAP_PAGE: usize = 0x1000;
/// What a copy ends with where the file was cut.
const EFAULT: i32 = 14;
/// What the file is full of.
const FILE_BYTE: u8 = 7;

/// What a CPU does in one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Something to its stripe.
    Stripe(Act),
    /// Adds one to the word.
    AddOne,
    /// Loads from the file, or stores to it.
    TouchFile,
    /// Lets the kernel copy a byte of the file's mapping.
    CopyFile,
    /// CPU 1 cuts or grows the file; others touch it.
    CutFile,
    /// CPU 0 maps the file where it is mapped; others touch it.
    MapFile,
    /// Drops what is mapped of the file.
    DropFile,
    /// The same, when a fork had it, too, and has ended: whoever copies a page meanwhile
    /// has the only reference.
    ForkFile,
    /// Uses its bytes of the pages that all use.
    Commons,
    /// Forks, and uses those pages in both.
    ForkCommons,
    /// CPU 0 moves the end of the heap; others use the commons.
    Heap,
}

/// Steps that have to do with the file and the commons, for [`Scene::live`].
pub const SHARED: [Step; 13] = [
    Step::AddOne,
    Step::TouchFile,
    Step::TouchFile,
    Step::CopyFile,
    Step::CutFile,
    Step::MapFile,
    Step::DropFile,
    Step::ForkFile,
    Step::Commons,
    Step::Commons,
    Step::Commons,
    Step::ForkCommons,
    Step::Heap,
];

/// Steps that change one thing: few of their orders are alike.
pub const MEETINGS: [&[Step]; 5] = [
    &[Step::Commons, Step::ForkCommons],
    &[Step::TouchFile, Step::CutFile],
    &[Step::TouchFile, Step::ForkFile],
    &[Step::CopyFile, Step::CutFile, Step::DropFile],
    &[Step::TouchFile, Step::MapFile, Step::ForkFile],
];

/// The space and what all CPUs share.
pub struct Scene {
    w: World,
    s: Space,
    file: File,
    /// Where the file is mapped, shared and private.
    files: [usize; 2],
    commons: usize,
    common_pages: usize,
    /// A word that everyone adds to, through the kernel.
    word: usize,
    added: AtomicU32,
    heap: usize,
}

/// What one CPU knows.
pub struct Life {
    cpu: usize,
    stripe: Stripe,
    /// Its byte of each common page.
    common: Vec<u8>,
    dice: Random,
}

fn va(addr: usize) -> VirtAddr {
    VirtAddr::new(addr)
}

impl Scene {
    /// Makes a space on a machine of `frames` frames, and a life for each CPU, whose
    /// stripe has `pages` pages, as have the commons.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn new(
        machine: &Machine,
        frames: usize,
        cpus: usize,
        pages: usize,
        seed: u64,
    ) -> (Self, Vec<Life>) {
        let mut dice = Random::new(seed);
        let page = machine.page_size();
        let w = machine.world(frames, cpus, seed);
        let s = w.space();
        let file = w.file(1, &vec![FILE_BYTE; FILE_PAGES * page]);
        let map = |request: &MapRequest<'_, 'static, _>| s.map(request).unwrap().as_usize();
        let all = cpus * pages + pages + 1;
        let base = map(&MapRequest::anonymous(all * page, Prot::RW));
        let len = FILE_PAGES * page;
        let files = [
            map(&MapRequest::shared(&file, 0, len, Prot::RW)),
            map(&MapRequest::private(&file, 0, len, Prot::RW)),
        ];
        let heap = HEAP_PAGE * page;
        s.set_brk_start(va(heap));
        let commons = base + cpus * pages * page;
        let life = |cpu| Life {
            cpu,
            stripe: Stripe::new(base + cpu * pages * page, page, pages),
            common: vec![0; pages],
            dice: Random::new(dice.next()),
        };
        let lives = (0..cpus).map(life).collect();
        let scene = Self {
            w,
            s,
            file,
            files,
            commons,
            common_pages: pages,
            word: commons + pages * page,
            added: AtomicU32::new(0),
            heap,
        };
        (scene, lives)
    }

    /// Lets a CPU do `count` things out of `steps`.
    ///
    /// # Panics
    /// When anything is not as it must be.
    pub fn live(&self, life: &mut Life, count: u64, steps: &[Step]) {
        on_cpu(life.cpu, || {
            for _ in 0..count {
                let step = life.dice.pick(steps);
                self.step(life, step);
            }
        });
    }

    fn step(&self, life: &mut Life, step: Step) {
        match (step, life.cpu) {
            (Step::Stripe(act), cpu) => {
                let (w, s) = (&self.w, &self.s);
                life.stripe.act(act, w, cpu, s, &mut life.dice);
            }
            (Step::AddOne, cpu) => self.add_one(cpu),
            (Step::CopyFile, _) => self.copy_file(life),
            (Step::CutFile, 1) => {
                let size = life.dice.below(FILE_PAGES as u64 + 1) as usize;
                self.w.resize(&self.file, size * self.w.page_size());
            }
            (Step::MapFile, 0) => self.map_file(life),
            (Step::DropFile, _) => self.drop_file(life.dice.pick(&self.files)),
            (Step::ForkFile, _) => {
                drop(self.s.fork().unwrap());
                self.drop_file(self.files[1]);
            }
            (Step::TouchFile | Step::CutFile | Step::MapFile, _) => self.touch_file(life),
            (Step::ForkCommons, _) => self.fork_commons(life),
            (Step::Heap, 0) => self.move_heap(life),
            (Step::Commons | Step::Heap, _) => self.use_commons(life),
        }
    }

    fn add_one(&self, cpu: usize) {
        let mut seen = 0;
        loop {
            let word = self.s.compare_exchange_u32(va(self.word), seen, seen + 1);
            match word.expect("the word is there") {
                Word32::Value(value) if value == seen => break,
                Word32::Value(value) => seen = value,
                Word32::Wait(ticket) => on_cpu(cpu, || self.w.serve(ticket)).expect("a read"),
            }
        }
        self.added.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks at the file, which CPU 1 may be cutting.
    fn touch_file(&self, life: &mut Life) {
        let page = life.dice.below(FILE_PAGES as u64) as usize * self.w.page_size();
        let at = life.dice.pick(&self.files) + page + 8 * life.cpu;
        let got = if life.dice.chance(50) {
            self.w.poke(life.cpu, &self.s, at, 9).map(|()| 9)
        } else {
            self.w.peek(life.cpu, &self.s, at)
        };
        match got {
            Ok(byte) => assert!([0, FILE_BYTE, 9].contains(&byte), "{byte} in the file"),
            Err(Stopped::Signal(Signal::BusAdrErr(_))) => {}
            Err(other) => panic!("the file: {other:?}"),
        }
    }

    /// Maps the file once more where it is: there is no moment without an area.
    fn map_file(&self, life: &mut Life) {
        let nth = life.dice.below(2) as usize;
        let (at, len) = (va(self.files[nth]), FILE_PAGES * self.w.page_size());
        let anew = match nth {
            0 => MapRequest::shared(&self.file, 0, len, Prot::RW),
            _ => MapRequest::private(&self.file, 0, len, Prot::RW),
        };
        assert_eq!(self.s.map(&anew.fixed(at)), Ok(at), "the file, mapped anew");
    }

    /// Drops the pages of one of the file's mappings.
    fn drop_file(&self, at: usize) {
        let len = FILE_PAGES * self.w.page_size();
        let dropped = self.s.advise(va(at), len, Advice::DontNeed);
        assert_eq!(dropped, Ok(()), "what is replaced is no hole");
    }

    /// Lets the kernel copy a byte out of the file's mapping, or into it, while CPU 1
    /// may be cutting the file.
    fn copy_file(&self, life: &mut Life) {
        let page = life.dice.below(FILE_PAGES as u64) as usize * self.w.page_size();
        let at = life.dice.pick(&self.files) + page + 8 * life.cpu;
        let into = life.dice.chance(50);
        let mut byte = [9];
        let done = self.w.finish(life.cpu, at, 1, |at, _| {
            if into {
                self.s.write(va(at), &byte)
            } else {
                self.s.read(va(at), &mut byte)
            }
        });
        match done {
            Ok(1) => assert!([0, FILE_BYTE, 9].contains(&byte[0]), "{byte:?} copied"),
            other => assert_eq!(other, Err(EFAULT), "a copy of the file"),
        }
    }

    /// Loads and stores the CPU's own byte of a page that all use, itself or by way of
    /// the kernel.
    fn use_commons(&self, life: &mut Life) {
        let (cpu, i) = (life.cpu, self.common(life));
        self.look_at_common(&self.s, cpu, i, life.common[i]);
        let byte = life.dice.next() as u8;
        let at = self.commons + i * self.w.page_size() + 8 * cpu;
        if life.dice.chance(30) {
            let copied = self
                .w
                .finish(cpu, at, 1, |at, _| self.s.write(va(at), &[byte]));
            assert_eq!(copied, Ok(1), "into common page {i} for CPU {cpu}");
        } else {
            self.w.poke(cpu, &self.s, at, byte).unwrap();
        }
        life.common[i] = byte;
    }

    fn common(&self, life: &mut Life) -> usize {
        life.dice.below(self.common_pages as u64) as usize
    }

    fn look_at_common(&self, space: &Space, cpu: usize, i: usize, byte: u8) {
        let at = self.commons + i * self.w.page_size() + 8 * cpu;
        let got = self.w.peek(cpu, space, at);
        assert_eq!(got, Ok(byte), "common page {i} of CPU {cpu}");
    }

    /// Forks while others use the commons: what the CPU stores in one of the two
    /// shows in no other.
    fn fork_commons(&self, life: &mut Life) {
        let cpu = life.cpu;
        let child = self.s.fork().unwrap();
        let i = self.common(life);
        let was = life.common[i];
        self.use_commons(life);
        if life.dice.chance(50) {
            let at = self.commons + i * self.w.page_size() + 8 * cpu;
            self.look_at_common(&child, cpu, i, was);
            self.w.poke(cpu, &child, at, was.wrapping_add(1)).unwrap();
            self.look_at_common(&self.s, cpu, i, life.common[i]);
            self.look_at_common(&child, cpu, i, was.wrapping_add(1));
        }
        drop(child);
    }

    /// Moves the end of the heap and uses what is below it.
    fn move_heap(&self, life: &mut Life) {
        let to = self.heap + life.dice.below(4) as usize * self.w.page_size();
        let end = self.s.brk(Some(va(to))).as_usize();
        assert_eq!(end, to, "the heap");
        if end > self.heap {
            let at = self.heap + life.dice.below((end - self.heap) as u64) as usize;
            self.w.poke(life.cpu, &self.s, at, 5).unwrap();
            assert_eq!(self.w.peek(life.cpu, &self.s, at), Ok(5), "the heap");
        }
    }

    /// Checks everything against everything, ends the space, and gives the
    /// machine back to the host.
    ///
    /// # Panics
    /// When something is lost, wrong or left over.
    pub fn end(self, lives: Vec<Life>) {
        let Self {
            w,
            s,
            file,
            commons,
            ..
        } = self;
        w.check([&s]).unwrap_or_else(|wrong| panic!("{wrong}"));
        for life in &lives {
            life.stripe.look_at_all(&w, life.cpu, &s);
            for (i, &byte) in life.common.iter().enumerate() {
                let got = w.peek(life.cpu, &s, commons + i * w.page_size() + 8 * life.cpu);
                assert_eq!(got, Ok(byte), "common page {i} of CPU {}", life.cpu);
            }
        }
        let mut sum = [0; 4];
        w.load(0, &s, self.word, &mut sum).unwrap();
        let added = self.added.into_inner();
        assert_eq!(u32::from_le_bytes(sum), added, "an addition is lost");
        drop((s, file));
        // SAFETY: the scene hands out no reference to its machine, and its space and
        // file are gone.
        unsafe { w.dispose() };
    }
}
