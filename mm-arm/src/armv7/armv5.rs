//! Second-level words of ARMv5, for reading (DDI 0100I B4.7).
//!
//! A small page of 4 KiB has four *sub-pages* of 1 KiB, each with access
//! rights of its own, and no execute-never bit. ARMv6 and ARMv7 read the same
//! word in another way, so this is no format to map with, but books on Linux
//! print these words, and a reader of a dump wants them decoded.
//!
//! ```text
//!               31......16 15..12 11..10 9..8 7..6 5..4  3  2  1  0
//!  large page   base 64K   0      AP3    AP2  AP1  AP0   C  B  0  1
//!  small page   base 4K           AP3    AP2  AP1  AP0   C  B  1  0
//!  tiny page    base 1K: 31..10               0    AP    C  B  1  1
//! ```

/// The rights of one sub-page, with the S and R bits of the control register
/// clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubPage {
    /// AP 00: nobody.
    None,
    /// AP 01: the kernel reads and writes.
    KernelOnly,
    /// AP 10: the kernel reads and writes, users read.
    UserReadOnly,
    /// AP 11: all read and write.
    UserReadWrite,
}

impl SubPage {
    const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::None,
            1 => Self::KernelOnly,
            2 => Self::UserReadOnly,
            _ => Self::UserReadWrite,
        }
    }
}

/// The size of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// 64 KiB: the same word 16 times, sub-pages of 16 KiB.
    Large,
    /// 4 KiB: sub-pages of 1 KiB.
    Small,
    /// 1 KiB: only in fine tables of 1024 words; one sub-page.
    Tiny,
}

/// A page, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Its first byte.
    pub base: u32,
    /// Its size.
    pub size: Size,
    /// The rights of its four sub-pages, lowest addresses first.
    pub sub_pages: [SubPage; 4],
    /// C: memory that may be cached.
    pub cacheable: bool,
    /// B: stores that may wait in a buffer.
    pub bufferable: bool,
}

impl Page {
    /// Reads a word; `None` is a fault, as the word zero of a page that was
    /// never touched.
    pub const fn decode(word: u32) -> Option<Self> {
        let (mask, size) = match word & 3 {
            0 => return None,
            1 => (0xffff_0000, Size::Large),
            2 => (0xffff_f000, Size::Small),
            _ => (0xffff_fc00, Size::Tiny),
        };
        let sub_pages = match size {
            Size::Tiny => [ap_of(word, 4); 4],
            _ => [
                ap_of(word, 4),
                ap_of(word, 6),
                ap_of(word, 8),
                ap_of(word, 10),
            ],
        };
        Some(Self {
            base: word & mask,
            size,
            sub_pages,
            cacheable: word & 1 << 3 != 0,
            bufferable: word & 1 << 2 != 0,
        })
    }

    /// Returns the number of its first frame of 4 KiB.
    pub const fn frame(self) -> u32 {
        self.base >> 12
    }
}

const fn ap_of(word: u32, shift: u32) -> SubPage {
    SubPage::from_bits(word >> shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dump that books on Linux show for three neighbouring pages of a
    /// program on ARM: 0x4011c000 read-only code, 0x4011d000 not touched yet,
    /// 0x4011e000 read-only code.
    #[test]
    fn the_textbook_dump_0x3156caae() {
        let dump = [
            (0x4011_c000u32, 0x3156_caaeu32),
            (0x4011_d000, 0),
            (0x4011_e000, 0x3156_faae),
        ];
        let pages = dump.map(|(_, word)| Page::decode(word));
        let user_page = |frame: u32| Page {
            base: frame << 12,
            size: Size::Small,
            sub_pages: [SubPage::UserReadOnly; 4],
            cacheable: true,
            bufferable: true,
        };
        assert_eq!(
            pages,
            [Some(user_page(0x3156c)), None, Some(user_page(0x3156f))]
        );
        assert_eq!(pages[0].map(Page::frame), Some(0x3156c));
        // They stand in one second-level table, side by side.
        let place = |address: u32| (address >> 20, address >> 12 & 0xff);
        assert_eq!(
            dump.map(|(address, _)| place(address)),
            [(0x401, 0x1c), (0x401, 0x1d), (0x401, 0x1e)]
        );
    }

    #[test]
    fn sub_pages_stand_lowest_first() {
        let page = Page::decode(0x1234_5000 | 0b11_10_01_00 << 4 | 0b0010).unwrap();
        assert_eq!(
            page.sub_pages,
            [
                SubPage::None,
                SubPage::KernelOnly,
                SubPage::UserReadOnly,
                SubPage::UserReadWrite
            ]
        );
        assert!(!page.cacheable && !page.bufferable);
        assert_eq!(page.base, 0x1234_5000);
    }

    #[test]
    fn sizes_follow_the_type() {
        let large = Page::decode(0x1234_0ff9).unwrap();
        assert_eq!((large.base, large.size), (0x1234_0000, Size::Large));
        assert!(large.cacheable && !large.bufferable);
        let tiny = Page::decode(0x1234_5437).unwrap();
        assert_eq!((tiny.base, tiny.size), (0x1234_5400, Size::Tiny));
        assert_eq!(tiny.sub_pages, [SubPage::UserReadWrite; 4]);
        assert!(!tiny.cacheable && tiny.bufferable);
        assert_eq!(Page::decode(0x1234_5ff0), None);
    }
}
