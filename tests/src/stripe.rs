//! One thread's part of a mapping that many share, and what must be in it.
//!
//! Each CPU owns a stripe of the memory, whose bytes and rights it knows at any
//! time; what the others do must not show there. So a store that is lost, a
//! page that comes back, or a right that is too wide is found in the very
//! access, whatever the schedule.

use crate::random::Random;
use crate::world::{Space, Stopped, World};
use mm_core::addr::VirtAddr;
use mm_core::fault::Signal;
use mm_core::prot::Prot;
use mm_core::space::{Advice, MapRequest, RemapFlags};

/// What a thread does to its stripe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Unmaps some pages.
    Unmap,
    /// Maps fresh pages over some.
    Map,
    /// Changes the rights of some.
    Protect,
    /// Drops the contents of some.
    DontNeed,
    /// Moves a page over another one.
    Move,
    /// Lets the kernel write a byte.
    UserCopy,
    /// Forks, and lives in both for a while.
    Fork,
    /// Stores a byte.
    Store,
    /// Loads one.
    Look,
}

/// What programs do: mostly loads and stores.
pub const USUAL: [Act; 21] = [
    Act::Unmap,
    Act::Map,
    Act::Map,
    Act::Protect,
    Act::Protect,
    Act::DontNeed,
    Act::Move,
    Act::UserCopy,
    Act::Fork,
    Act::Store,
    Act::Store,
    Act::Store,
    Act::Store,
    Act::Store,
    Act::Store,
    Act::Look,
    Act::Look,
    Act::Look,
    Act::Look,
    Act::Look,
    Act::Look,
];

/// What lets verbs meet: each as often as any.
pub const EAGER: [Act; 11] = [
    Act::Unmap,
    Act::Map,
    Act::Protect,
    Act::Protect,
    Act::DontNeed,
    Act::Move,
    Act::UserCopy,
    Act::Fork,
    Act::Store,
    Act::Store,
    Act::Look,
];

/// A stripe of a space. Mapped, writable and zero when it is made.
#[derive(Clone, Debug)]
pub struct Stripe {
    start: usize,
    page: usize,
    /// A byte for each page, `None` where nothing is mapped.
    bytes: Vec<Option<u8>>,
    writable: Vec<bool>,
    /// Where in each page that byte is: it moves along.
    places: Vec<usize>,
}

fn va(addr: usize) -> VirtAddr {
    VirtAddr::new(addr)
}

impl Stripe {
    /// Makes a stripe of `pages` pages of `page` bytes from `start` on.
    pub fn new(start: usize, page: usize, pages: usize) -> Self {
        Self {
            start,
            page,
            bytes: vec![Some(0); pages],
            writable: vec![true; pages],
            places: (0..pages).map(|i| 9 * i).collect(),
        }
    }

    /// Returns the number of pages.
    pub fn pages(&self) -> usize {
        self.bytes.len()
    }

    fn addr(&self, i: usize) -> usize {
        self.start + i * self.page
    }

    /// The byte of page `i` that is compared: each had its own place at first.
    fn byte(&self, i: usize) -> usize {
        self.addr(i) + self.places[i]
    }

    /// Loads from page `i` and compares.
    ///
    /// # Panics
    /// When it is not what the thread left there.
    pub fn look(&self, w: &World, cpu: usize, s: &Space, i: usize) {
        let got = w.peek(cpu, s, self.byte(i));
        match self.bytes[i] {
            Some(byte) => assert_eq!(got, Ok(byte), "page {i} of CPU {cpu}"),
            None => assert!(
                matches!(got, Err(Stopped::Signal(Signal::SegvMapErr(_)))),
                "page {i} of CPU {cpu}: {got:?}"
            ),
        }
    }

    /// Looks at every page.
    ///
    /// # Panics
    /// As [`Self::look`].
    pub fn look_at_all(&self, w: &World, cpu: usize, s: &Space) {
        (0..self.pages()).for_each(|i| self.look(w, cpu, s, i));
    }

    fn store(&mut self, w: &World, cpu: usize, s: &Space, i: usize, byte: u8) {
        let got = w.poke(cpu, s, self.byte(i), byte);
        match (self.bytes[i], self.writable[i]) {
            (Some(_), true) => {
                assert_eq!(got, Ok(()), "page {i} of CPU {cpu}");
                self.bytes[i] = Some(byte);
            }
            (Some(_), false) => assert!(
                matches!(got, Err(Stopped::Signal(Signal::SegvAccErr(_)))),
                "page {i} of CPU {cpu}: {got:?}"
            ),
            (None, _) => assert!(
                matches!(got, Err(Stopped::Signal(Signal::SegvMapErr(_)))),
                "page {i} of CPU {cpu}: {got:?}"
            ),
        }
    }

    /// Does one thing to some pages of the stripe, and checks what it knows.
    ///
    /// # Panics
    /// When the outcome is another than it must be.
    pub fn act(&mut self, act: Act, w: &World, cpu: usize, s: &Space, dice: &mut Random) {
        let pages = self.pages();
        let i = dice.below(pages as u64) as usize;
        let n = (1 + dice.below(6) as usize).min(pages - i);
        let (at, len) = (va(self.addr(i)), n * self.page);
        match act {
            Act::Unmap => {
                w.verb(cpu, || s.unmap(at, len)).unwrap();
                self.bytes[i..i + n].fill(None);
            }
            Act::Map => {
                let r = MapRequest::anonymous(len, Prot::RW).fixed(at);
                w.verb(cpu, || s.map(&r)).unwrap();
                self.bytes[i..i + n].fill(Some(0));
                self.writable[i..i + n].fill(true);
            }
            Act::Protect => {
                let prot = dice.pick(&[Prot::READ, Prot::RW, Prot::RWX]);
                let whole = self.bytes[i..i + n].iter().position(Option::is_none);
                let done = w.verb(cpu, || s.protect(at, len, prot));
                assert_eq!(done.is_ok(), whole.is_none());
                let n = whole.unwrap_or(n);
                self.writable[i..i + n].fill(prot.contains(Prot::WRITE));
            }
            Act::DontNeed => {
                let _holes = w.verb(cpu, || s.advise(at, len, Advice::DontNeed));
                for byte in self.bytes[i..i + n].iter_mut().flatten() {
                    *byte = 0;
                }
            }
            Act::Move => self.move_page(w, cpu, s, i, dice),
            Act::UserCopy => {
                let byte = dice.next() as u8;
                let whole = self.bytes[i].is_some() && self.writable[i];
                let done = w.verb(cpu, || s.write(va(self.byte(i)), &[byte]));
                assert_eq!(done.is_ok(), whole);
                if whole {
                    self.bytes[i] = Some(byte);
                }
            }
            Act::Fork => self.fork(w, cpu, s, dice),
            Act::Store => self.store(w, cpu, s, i, dice.next() as u8),
            Act::Look => self.look(w, cpu, s, i),
        }
    }

    /// Moves one page over another: one is all of an area, or of a part of one.
    fn move_page(&mut self, w: &World, cpu: usize, s: &Space, i: usize, dice: &mut Random) {
        let to = dice.below(self.pages() as u64) as usize;
        let (from, place) = (va(self.addr(i)), va(self.addr(to)));
        let fixed = RemapFlags::MAY_MOVE | RemapFlags::FIXED;
        let done = w.verb(cpu, || {
            s.remap(from, self.page, self.page, fixed, Some(place))
        });
        let possible = self.bytes[i].is_some() && i != to;
        assert_eq!(done.is_ok(), possible, "page {i} to {to} of CPU {cpu}");
        if possible {
            self.bytes[to] = self.bytes[i].take();
            self.writable[to] = self.writable[i];
            self.places[to] = self.places[i];
        }
    }

    /// Forks while the others go on, and compares the stripe in the child.
    fn fork(&mut self, w: &World, cpu: usize, s: &Space, dice: &mut Random) {
        let child = w.verb(cpu, || s.fork()).unwrap();
        let mut twin = self.clone();
        for _ in 0..self.pages() / 2 {
            let i = dice.below(self.pages() as u64) as usize;
            twin.look(w, cpu, &child, i);
            twin.store(w, cpu, &child, i, dice.next() as u8);
            self.look(w, cpu, s, i);
            self.store(w, cpu, s, i, dice.next() as u8);
            twin.look(w, cpu, &child, i);
        }
        w.verb(cpu, || drop(child));
    }
}
