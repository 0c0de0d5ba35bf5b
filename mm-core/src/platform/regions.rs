//! From a firmware's region map to usable frames.
//!
//! Firmware maps (E820, UEFI, device trees) overlap, are unsorted, have odd
//! sizes and may contradict themselves. A frame is usable when each of its
//! bytes lies in some usable region and none in a reserved one.
//!
//! ```text
//! usable      [=========]    [======)(======]
//! usable          [=======]
//! reserved              [==]
//! result      [:::::::::]    [::::::::::::::]    then inwards to whole frames
//! ```
//!
//! Nothing is stored or sorted: each step looks through the map for the next
//! range, which is quadratic in the tens of entries that such maps have, and
//! needs neither a heap nor a bound on the number of entries.

use crate::addr::Pfn;

/// One entry of a region map, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// The first byte.
    pub start: u64,
    /// The number of bytes; a region that wraps ends at the last address.
    pub len: u64,
    /// What the region is.
    pub kind: RegionKind,
}

/// What a region of a firmware map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionKind {
    /// RAM that nobody uses.
    Usable,
    /// Anything else: firmware, devices, the kernel's image, boot modules.
    Reserved,
}

/// A stretch of usable frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRange {
    /// The first frame.
    pub start: Pfn,
    /// The number of frames, at least one.
    pub frames: u64,
}

/// Walks the usable frames of a region map: sorted, disjoint, not adjacent.
pub const fn normalise(regions: &[Region], page_shift: u32) -> Usable<'_> {
    Usable {
        regions,
        page_shift,
        from: 0,
    }
}

/// The iterator of [`normalise`].
#[derive(Clone, Debug)]
pub struct Usable<'a> {
    regions: &'a [Region],
    page_shift: u32,
    /// No byte below is looked at again.
    from: u64,
}

impl Region {
    /// Returns the byte after the last.
    const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    const fn contains(&self, byte: u64) -> bool {
        self.start <= byte && byte < self.end()
    }
}

impl Usable<'_> {
    fn of(&self, kind: RegionKind) -> impl Iterator<Item = &Region> {
        self.regions
            .iter()
            .filter(move |r| r.kind == kind && r.len > 0)
    }

    /// Returns the first usable byte from `from`.
    fn first_usable(&self, from: u64) -> Option<u64> {
        let mut byte = from;
        loop {
            if let Some(r) = self.of(RegionKind::Reserved).find(|r| r.contains(byte)) {
                byte = r.end();
            } else if self.of(RegionKind::Usable).any(|r| r.contains(byte)) {
                return Some(byte);
            } else {
                let above = self
                    .of(RegionKind::Usable)
                    .map(|r| r.start)
                    .filter(|&s| s > byte);
                byte = above.min()?;
            }
            if byte == u64::MAX {
                return None;
            }
        }
    }

    /// Returns the first byte from a usable one that is not usable.
    fn end_of(&self, start: u64) -> u64 {
        let reserved = self
            .of(RegionKind::Reserved)
            .map(|r| r.start)
            .filter(|&s| s > start);
        let limit = reserved.min().unwrap_or(u64::MAX);
        let mut end = start;
        while end < limit {
            match self
                .of(RegionKind::Usable)
                .filter(|r| r.contains(end))
                .map(Region::end)
                .max()
            {
                Some(further) => end = further,
                None => break,
            }
        }
        end.min(limit)
    }
}

impl Iterator for Usable<'_> {
    type Item = FrameRange;

    fn next(&mut self) -> Option<FrameRange> {
        let mask = 1u64.wrapping_shl(self.page_shift).wrapping_sub(1);
        loop {
            let start = self.first_usable(self.from)?;
            let end = self.end_of(start);
            self.from = end;
            let Some(up) = start.checked_add(mask) else {
                continue;
            };
            let (first, last) = (
                up.wrapping_shr(self.page_shift),
                end.wrapping_shr(self.page_shift),
            );
            if first < last {
                let frames = last.saturating_sub(first);
                return Some(FrameRange {
                    start: Pfn::new(first),
                    frames,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(regions: &[Region], shift: u32) -> Vec<(u64, u64)> {
        normalise(regions, shift)
            .map(|r| (r.start.as_u64(), r.frames))
            .collect()
    }

    const fn usable(start: u64, len: u64) -> Region {
        Region {
            start,
            len,
            kind: RegionKind::Usable,
        }
    }

    const fn reserved(start: u64, len: u64) -> Region {
        Region {
            start,
            len,
            kind: RegionKind::Reserved,
        }
    }

    #[test]
    fn odd_sizes_go_inwards_and_adjacent_halves_of_a_frame_join() {
        assert_eq!(run(&[usable(0x1800, 0x2000)], 12), [(2, 1)]);
        assert_eq!(
            run(&[usable(0x1800, 0x1000), usable(0x1000, 0x800)], 12),
            [(1, 1)]
        );
        assert_eq!(run(&[usable(0x1001, 0xffe)], 12), []);
    }

    #[test]
    fn reserved_wins_wherever_it_stands_in_the_map() {
        let u = usable(0x1000, 0x9000);
        let r = reserved(0x3800, 0x1000);
        assert_eq!(run(&[u, r], 12), [(1, 2), (5, 5)]);
        assert_eq!(run(&[r, u], 12), [(1, 2), (5, 5)]);
        assert_eq!(run(&[u, reserved(0, u64::MAX)], 12), []);
    }

    #[test]
    fn empty_and_wrapping_entries_do_no_harm() {
        assert_eq!(run(&[], 12), []);
        assert_eq!(
            run(
                &[
                    usable(0x5000, 0),
                    reserved(0x2000, 0),
                    usable(0x1000, 0x3000)
                ],
                12
            ),
            [(1, 3)]
        );
        let top = u64::MAX - 0x2fff;
        assert_eq!(run(&[usable(top, u64::MAX)], 12), [(top >> 12, 2)]);
        assert_eq!(
            run(&[usable(0x1000, 0x1000), reserved(0x1000, u64::MAX)], 12),
            []
        );
    }

    /// A frame of 4 bytes is usable exactly when a byte-wise reading says so.
    #[test]
    fn random_maps_agree_with_a_map_of_bytes() {
        const BYTES: u64 = 96;
        for seed in 1..=20_000u64 {
            let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut below = |n: u64| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x % n
            };
            let regions: Vec<Region> = (0..below(9))
                .map(|_| {
                    let kind = [RegionKind::Usable, RegionKind::Usable, RegionKind::Reserved]
                        [below(3) as usize];
                    Region {
                        start: below(BYTES),
                        len: below(40),
                        kind,
                    }
                })
                .collect();
            let hit = |b: u64, k| {
                regions
                    .iter()
                    .any(|r| r.kind == k && r.start <= b && b < r.start + r.len)
            };
            let good = |b| hit(b, RegionKind::Usable) && !hit(b, RegionKind::Reserved);
            let wanted: Vec<u64> = (0..40u64)
                .filter(|f| (f * 4..f * 4 + 4).all(good))
                .collect();
            let ranges = run(&regions, 2);
            let got: Vec<u64> = ranges.iter().flat_map(|&(s, n)| s..s + n).collect();
            assert_eq!(got, wanted, "seed {seed}: {regions:?}");
            assert!(
                ranges.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0),
                "seed {seed}: {ranges:?}"
            );
        }
    }
}
