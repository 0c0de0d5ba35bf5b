//! Names of words of user memory: what futexes are known by.
//!
//! | the word lies in | its name | who meets there |
//! |---|---|---|
//! | a shared mapping | the object and the offset in it | everyone who maps it, wherever |
//! | anything else, or the caller says that it is private | the space and the address | the threads of one space, and vfork's children |
//!
//! A private mapping is never shared by a name, whether its page was copied yet or not: so a
//! copy-on-write between a wait and its wake changes no name (Linux: get_futex_key, but for
//! read-only pages of private mappings of files, which it takes for the file's).

use mm_core::addr::VirtAddr;
use mm_core::object::ObjectRef;

use super::Space;
use crate::arch::Arch;
use crate::errno::{Errno, Result};

/// The name of a word of user memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordName {
    /// By a space's number and the address.
    InSpace(u64, usize),
    /// By an object's number and the offset in it, in bytes.
    InObject(u32, u64),
}

/// Who may know a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those who share the space (FUTEX_PRIVATE_FLAG).
    Space,
    /// Everyone who maps the memory.
    Machine,
}

/// A word with its name, which means nothing else as long as this lives.
pub struct NamedWord<A: Arch> {
    /// The name.
    pub name: WordName,
    _object: Option<ObjectRef<'static, A::Platform>>,
}

impl<A: Arch> Space<A> {
    /// Names the word at an address.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn name_word(&self, at: usize, reach: Reach) -> Result<NamedWord<A>> {
        let shared = match reach {
            Reach::Space => None,
            Reach::Machine => self
                .inner
                .shared_object(VirtAddr::new(at))
                .map_err(|_| Errno::ENOMEM)?,
        };
        Ok(match shared {
            None => NamedWord {
                name: WordName::InSpace(self.number, at),
                _object: None,
            },
            Some((object, offset)) => NamedWord {
                name: WordName::InObject(object.handle().into_raw(), offset),
                _object: Some(object),
            },
        })
    }
}
