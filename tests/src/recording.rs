//! Recordings of what real programs asked of their kernel, as text.
//!
//! One call a line, numbers in hexadecimal, addresses and lengths in pages of
//! 4 KiB with what is over in bytes (`9+2d7`), as in `tests/traces`:
//!
//! | line | call |
//! |---|---|
//! | `exec N` | a process begins: space N; the lines after it are its calls |
//! | `in N` | the lines after it are calls of the process in space N |
//! | `image AT LEN` | the loader had mapped this, as far as later calls touch it |
//! | `thread` | a clone that shares the space |
//! | `exit` | the process ends, and its space |
//! | `brk TO RESULT` | `-`: it only asks |
//! | `map HINT LEN RIGHTS OFFSET RESULT [noreserve]` | `-`: no hint, no file; rights as in a listing of maps; `fixed`: MAP_FIXED |
//! | `unmap AT LEN`, `protect AT LEN RIGHTS`, `advise AT LEN WHAT` | |
//!
//! A file that is mapped without FIXED is another file than those before, and
//! parts that are mapped FIXED are of the last one, as dynamic linkers do it.
//! No call of these recordings failed. A call that another thread's calls
//! interrupt stands where it ended.

use mm_core::prot::Prot;
use mm_core::space::Advice;

/// An address, or a length: pages of 4 KiB, and bytes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes {
    /// Whole pages.
    pub pages: usize,
    /// Bytes over.
    pub rest: usize,
}

/// One line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// A process begins in a new space.
    Exec(usize),
    /// Whose calls follow.
    In(usize),
    /// What the loader had mapped: where, and how long.
    Image(Bytes, Bytes),
    /// A thread begins.
    Thread,
    /// The process ends.
    Exit,
    /// brk(2), and what it answered.
    Brk(Option<Bytes>, Bytes),
    /// mmap(2).
    Map(Map),
    /// munmap(2).
    Unmap(Bytes, Bytes),
    /// mprotect(2).
    Protect(Bytes, Bytes, Prot),
    /// madvise(2).
    Advise(Bytes, Bytes, Advice),
}

/// mmap(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Map {
    /// Where it was asked for.
    pub hint: Option<Bytes>,
    /// How long.
    pub len: Bytes,
    /// The rights.
    pub prot: Prot,
    /// MAP_SHARED.
    pub shared: bool,
    /// The offset in the file, if one is mapped.
    pub offset: Option<Bytes>,
    /// Where the recorded kernel put it; `None` with MAP_FIXED.
    pub chosen: Option<Bytes>,
    /// MAP_NORESERVE.
    pub no_reserve: bool,
}

/// Reads a recording.
///
/// # Panics
/// When a line is none.
pub fn parse(text: &str) -> Vec<Call> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| call(line).unwrap_or_else(|| panic!("what is `{line}`?")))
        .collect()
}

fn call(line: &str) -> Option<Call> {
    let mut words = line.split(' ');
    let verb = words.next()?;
    let mut bytes = || maybe_bytes(words.next()?);
    Some(match verb {
        "exec" => Call::Exec(bytes()??.pages),
        "in" => Call::In(bytes()??.pages),
        "image" => Call::Image(bytes()??, bytes()??),
        "thread" => Call::Thread,
        "exit" => Call::Exit,
        "brk" => Call::Brk(bytes()?, bytes()??),
        "unmap" => Call::Unmap(bytes()??, bytes()??),
        "protect" => Call::Protect(bytes()??, bytes()??, prot(words.next()?)?),
        "advise" => {
            let (at, len) = (bytes()??, bytes()??);
            Call::Advise(at, len, advice(words.next()?)?)
        }
        "map" => {
            let (hint, len) = (bytes()?, bytes()??);
            let rights = words.next()?;
            let offset = maybe_bytes(words.next()?)?;
            let chosen = match words.next()? {
                "fixed" => None,
                at => Some(maybe_bytes(at)??),
            };
            Call::Map(Map {
                hint,
                len,
                prot: prot(rights.get(..3)?)?,
                shared: rights.ends_with('s'),
                offset,
                chosen,
                no_reserve: words.next() == Some("noreserve"),
            })
        }
        _ => return None,
    })
}

/// Reads a number, or `-`; the outer `None` is for neither.
fn maybe_bytes(word: &str) -> Option<Option<Bytes>> {
    if word == "-" {
        return Some(None);
    }
    let (pages, rest) = word.split_once('+').unwrap_or((word, "0"));
    let hex = |text| usize::from_str_radix(text, 16).ok();
    Some(Some(Bytes {
        pages: hex(pages)?,
        rest: hex(rest)?,
    }))
}

fn prot(rights: &str) -> Option<Prot> {
    let mut prot = Prot::NONE;
    for (has, right) in rights.bytes().zip([Prot::READ, Prot::WRITE, Prot::EXEC]) {
        if has != b'-' {
            prot |= right;
        }
    }
    Some(prot)
}

fn advice(what: &str) -> Option<Advice> {
    Some(match what {
        // MADV_FREE lets a kernel drop the pages at once.
        "dontneed" | "free" => Advice::DontNeed,
        "dontfork" => Advice::DontFork,
        _ => return None,
    })
}

/// Fits a recording into a machine: a page of 4 KiB becomes a page, and where user
/// space is too small, what lies between distant addresses shrinks.
#[derive(Debug)]
pub struct Fit {
    page: usize,
    /// The first page of each cluster, as recorded and as here.
    clusters: Vec<(usize, usize)>,
}

/// Pages of which a cluster's neighbours keep away, as far as they did.
const APART: usize = 1 << 18;
/// Bytes of a page of the recordings.
const RECORDED: usize = 4096;

impl Fit {
    /// Fits a recording into a user space of `end` bytes with pages of `page` bytes.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn new(calls: &[Call], page: usize, end: usize) -> Self {
        let mut ranges: Vec<_> = calls.iter().flat_map(touched).collect();
        ranges.sort_unstable();
        let mut clusters = Vec::new();
        // Both as far as the clusters reach so far.
        let (mut recorded, mut here) = (0, 0);
        let all = ranges.iter().map(|r| r.1).max().unwrap_or(0);
        let as_it_is = all <= end / page;
        for (first, last) in ranges {
            if first > recorded + APART || clusters.is_empty() {
                let gap = first - recorded;
                let to = here + if as_it_is { gap } else { gap.min(APART) };
                clusters.push((first, to));
                (recorded, here) = (first, to);
            }
            if last > recorded {
                here += last - recorded;
                recorded = last;
            }
        }
        assert!(here <= end / page, "{here:#x} pages do not fit");
        Self { page, clusters }
    }

    /// Returns an address of the recording, here.
    pub fn at(&self, at: Bytes) -> usize {
        let below = self.clusters.partition_point(|c| c.0 <= at.pages);
        let (first, to) = self.clusters[below - 1];
        self.len(Bytes {
            pages: at.pages - first + to,
            rest: at.rest,
        })
    }

    /// Returns a length of the recording, here.
    pub fn len(&self, len: Bytes) -> usize {
        len.pages * self.page + len.rest * (self.page / RECORDED)
    }
}

/// The pages that a call names, and one more, which a heap keeps free.
fn touched(call: &Call) -> Vec<(usize, usize)> {
    let range = |at: Bytes, len: Bytes| (at.pages, at.pages + len.pages + 2);
    let none = Bytes { pages: 0, rest: 0 };
    match *call {
        Call::Image(at, len)
        | Call::Unmap(at, len)
        | Call::Protect(at, len, _)
        | Call::Advise(at, len, _) => vec![range(at, len)],
        Call::Brk(to, result) => to
            .into_iter()
            .chain([result])
            .map(|at| range(at, none))
            .collect(),
        Call::Map(map) => map
            .hint
            .into_iter()
            .chain(map.chosen)
            .map(|at| range(at, map.len))
            .collect(),
        Call::Exec(_) | Call::In(_) | Call::Thread | Call::Exit => Vec::new(),
    }
}
