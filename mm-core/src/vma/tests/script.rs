//! Long random scripts against a model that knows pages and nothing else.
//!
//! The model is a map from page to (flags, object, offset). Its areas are found
//! by scanning: a new one begins where the next page does not continue. It
//! shares no code with the merging.

use super::{RO, RW, Space, file, range};
use crate::addr::Vpn;
use crate::tree::Resolve;
use crate::vma::{NewVma, VmaFlags, VmaSpec};
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Debug)]
struct Page {
    flags: VmaFlags,
    object: u32,
    pgoff: usize,
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
    fn span(&mut self, pages: usize, longest: usize) -> (usize, usize) {
        let start = self.below(pages);
        (start, (start + 1 + self.below(longest)).min(pages))
    }
}

fn areas(model: &BTreeMap<usize, Page>) -> Vec<(usize, usize, usize)> {
    let mut out: Vec<(usize, usize, usize)> = Vec::new();
    let mut last: Option<(usize, Page)> = None;
    for (&at, &page) in model {
        let goes_on = last.is_some_and(|(p, l)| {
            p + 1 == at
                && l.flags == page.flags
                && l.object == page.object
                && l.pgoff + 1 == page.pgoff
        });
        match out.last_mut() {
            Some(area) if goes_on => area.1 = at + 1,
            _ => out.push((at, at + 1, page.pgoff)),
        }
        last = Some((at, page));
    }
    out
}

fn compare(s: &Space, model: &BTreeMap<usize, Page>, exact: bool) {
    let mut seen = 0;
    let mut drawn = Vec::new();
    for vma in s.tree.iter(&s.up) {
        let v = s.up.get(vma);
        for page in v.range().iter() {
            let got = Page {
                flags: v.flags(),
                object: v.object_raw(),
                pgoff: v.pgoff_of(page),
            };
            assert_eq!(model.get(&page.as_usize()), Some(&got), "{page:?}");
            seen += 1;
        }
        drawn.push((v.start().as_usize(), v.end().as_usize(), v.pgoff()));
    }
    assert_eq!(seen, model.len());
    if exact {
        assert_eq!(drawn, areas(model), "as few areas as there can be");
    } else {
        assert!(drawn.len() >= areas(model).len());
    }
}

fn play(seed: u64, steps: usize, faults: bool) {
    const PAGES: usize = 96;
    let choices = [RW, RO, RW | VmaFlags::EXEC, RW | VmaFlags::LOCKED];
    let mut rng = Rng(seed);
    let s = Space::new();
    let mut model = BTreeMap::new();
    for _ in 0..steps {
        let (start, end) = rng.span(PAGES, 24);
        let flags = choices[rng.below(choices.len())];
        // Some attempts meet an empty pool somewhere; they must change nothing.
        let fuse = (rng.below(4) == 0).then(|| rng.below(4) as u32);
        s.up.fuse.set(fuse);
        let before = fuse.map(|_| s.snapshot());
        let what = rng.below(if faults { 10 } else { 9 });
        let object = rng.below(3) as u32;
        let shift = if object == 0 { 0 } else { rng.below(2) * 7 };
        let done = match what {
            0..=2 => {
                let spec: VmaSpec = file(flags, object, start + shift);
                s.try_place(range(start, end), NewVma { spec, like: None })
            }
            3..=4 => s.try_unmap(start, end),
            5..=8 => s.try_set(start, end, flags),
            _ => {
                if s.tree.find(&s.up, Vpn::new(start)).is_some() {
                    // Families of their own, some with an ancestor.
                    let id = 10 * (1 + rng.below(40) as u32);
                    let chains = [id + 1, id];
                    s.fault(start, &chains[..1 + rng.below(2)]);
                }
                s.check();
                continue;
            }
        };
        s.up.fuse.set(None);
        match (done, before) {
            (Err(_), Some(before)) => assert_eq!(s.snapshot(), before, "failed, but changed"),
            (Err(_), None) => panic!("failed without a reason"),
            (Ok(_), _) => match what {
                0..=2 => {
                    for page in start..end {
                        let pgoff = page + shift;
                        model.insert(
                            page,
                            Page {
                                flags,
                                object,
                                pgoff,
                            },
                        );
                    }
                }
                3..=4 => model.retain(|p, _| !(start..end).contains(p)),
                _ => model
                    .range_mut(start..end)
                    .for_each(|(_, p)| p.flags = flags),
            },
        }
        compare(&s, &model, !faults);
    }
    s.unmap(0, PAGES);
    assert_eq!(
        s.up.free.borrow().len(),
        super::NODES - 1,
        "every node came back"
    );
}

#[test]
fn a4_random_scripts_leave_the_fewest_areas() {
    for seed in 1..=40 {
        println!("seed {seed}");
        play(seed * 0x9e37_79b9, 300, false);
    }
}

#[test]
fn random_scripts_with_faults_keep_every_page() {
    for seed in 1..=40 {
        println!("seed {seed}");
        play(seed * 0x85eb_ca6b, 300, true);
    }
}
