//! Lazy ELF loading: headers, then checked segments, then a map plan.
//!
//! A loader that copies a program into memory reads every byte of it; one
//! that maps it reads only the pages which run. This crate does the second,
//! in stages of which each can be used without the next. The modules,
//! top-down:
//!
//! | stage | module | in | out |
//! |---|---|---|---|
//! | load | [`load`] | a [`Plan`], a file's object, a new space | the image mapped, its bss tail zeroed |
//! | plan | [`plan`] | a [`Checked`] image and a base | page-aligned [`MapStep`]s, entry, heap start |
//! | check | [`segment`] | the program header table's bytes | [`Checked`]: every segment is sound |
//! | header | [`header`] | the first bytes of the file | [`Header`]: right machine, where the table is |
//! | stack | [`stack`] | arguments, environment, [`auxv`] facts | the initial stack, streamed in small pieces |
//! | words | [`target`], [`error`] | | machines, user range; what is wrong and where |
//!
//! Raw and checked forms are two types. What the `elf` crate parses are raw
//! numbers; a [`Checked`] can only be had from [`Header::check`], so whoever
//! holds one need not look at sizes, order or wrap-around again.
//!
//! Nothing here reads a file: the caller hands over bytes and is told which
//! it should bring next. Nothing allocates: segments are decoded from the
//! caller's bytes each time they are walked, so there is no list to overflow.
//!
//! ```
//! use mm_elf::{Header, Machine, StepKind, Target};
//!
//! let target = Target { machine: Machine::X86_64, page_shift: 12, user: 0x1_0000..0x8000_0000_0000 };
//! # let file = demo();
//! let header = Header::parse(&file, file.len() as u64, &target)?;
//! let table = header.table();
//! let image = header.check(&file[table.offset as usize..][..table.len as usize])?;
//! let plan = image.plan(0x5555_5555_0000)?;
//!
//! let step = plan.steps().next().unwrap();
//! assert_eq!((step.addr, step.len), (0x5555_5555_0000, 0x1000));
//! assert_eq!(step.kind, StepKind::File { offset: 0 });
//! assert_eq!(plan.entry(), 0x5555_5555_0078);
//! # fn demo() -> Vec<u8> {
//! #     let mut f = b"\x7fELF\x02\x01\x01".to_vec();
//! #     f.resize(16, 0);
//! #     f.extend([3, 0, 62, 0, 1, 0, 0, 0]);
//! #     for word in [0x78u64, 64, 0] { f.extend(word.to_le_bytes()); }
//! #     f.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
//! #     f.extend([1, 0, 0, 0, 5, 0, 0, 0]);
//! #     for word in [0u64, 0, 0, 0x7c, 0x7c, 0x1000] { f.extend(word.to_le_bytes()); }
//! #     f.extend([0xf4; 4]);
//! #     f
//! # }
//! # Ok::<(), mm_elf::ElfError>(())
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod auxv;
pub mod error;
pub mod header;
pub mod load;
pub mod plan;
pub mod segment;
pub mod stack;
pub mod target;

pub use auxv::{ImageFacts, ProcessFacts};
pub use error::{ElfError, Part};
pub use header::{Header, ImageKind};
pub use load::ImageLoad;
pub use plan::{MapStep, Plan, StepKind};
pub use segment::{Checked, FileRange, Segment, StackRights};
pub use stack::{Sink, Stack, StackImage};
pub use target::{Machine, Target};
