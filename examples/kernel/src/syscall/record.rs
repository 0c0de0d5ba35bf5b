//! Structures as programs lay them out, written field by field.
//!
//! A field is aligned to its own size, except that nothing is put between fields silently: where
//! an ABI has a hole, the writer says [`Record::align`]. A *word* is as wide as the ABI's `long`,
//! whatever this kernel's own is, so that the layouts of all ABIs are tested on one host. All
//! ABIs here are little-endian.

use crate::arch::SyscallAbi;

/// A structure of at most `N` bytes.
pub struct Record<const N: usize> {
    abi: SyscallAbi,
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Record<N> {
    /// Starts an empty one.
    #[must_use]
    pub const fn new(abi: SyscallAbi) -> Self {
        Record {
            abi,
            bytes: [0; N],
            at: 0,
        }
    }

    /// The bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.at]
    }

    /// Appends bytes.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    /// Appends a half.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Appends 32 bits.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Appends 64 bits.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Appends a word of the ABI; on a 32-bit one the upper half is cut off.
    pub fn word(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes()[..self.abi.word_bytes()])
    }

    /// Appends words.
    pub fn words(&mut self, values: impl IntoIterator<Item = u64>) -> &mut Self {
        for value in values {
            self.word(value);
        }
        self
    }

    /// Appends zeros up to a multiple of `to` bytes.
    pub fn align(&mut self, to: usize) -> &mut Self {
        self.at = self.at.next_multiple_of(to);
        self
    }

    /// Appends zeros up to `length` bytes in all.
    pub fn fill(&mut self, length: usize) -> &mut Self {
        self.at = self.at.max(length).min(N);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::{Record, SyscallAbi};

    #[test]
    fn words_are_as_wide_as_the_abi_says() {
        let mut wide = Record::<32>::new(SyscallAbi::Generic);
        wide.u16(0x1234).align(8).word(!0 - 1).fill(20);
        assert_eq!(wide.bytes().len(), 20);
        assert_eq!(&wide.bytes()[..9], [0x34, 0x12, 0, 0, 0, 0, 0, 0, 0xfe]);
        let mut narrow = Record::<32>::new(SyscallAbi::Arm);
        narrow.words([0x1_0000_0002, 3]);
        assert_eq!(narrow.bytes(), [2, 0, 0, 0, 3, 0, 0, 0]);
    }
}
