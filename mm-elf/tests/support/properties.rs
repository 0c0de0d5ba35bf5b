//! What holds for every file, however broken: shared by the tests and the fuzz target.
//!
//! Written from the promises in the documentation, not from the code: sums
//! are made in 128 bits, so that nothing can wrap here.

use mm_elf::segment::interpreter_path;
use mm_elf::{Checked, ElfError, Header, ImageKind, Machine, Plan, StepKind, Target};

/// The machines a file is tried on.
pub const MACHINES: [Machine; 5] = [
    Machine::X86_64,
    Machine::Aarch64,
    Machine::Arm,
    Machine::Riscv64,
    Machine::Riscv32,
];

/// A target with the user range of its Linux.
pub fn target(machine: Machine) -> Target {
    let end = match machine {
        Machine::Arm | Machine::Riscv32 => 0xc000_0000,
        Machine::Riscv64 => 0x40_0000_0000,
        _ => 0x7fff_ffff_f000,
    };
    Target {
        machine,
        page_shift: 12,
        user: 0x1000..end,
    }
}

/// Runs every stage on a file as a kernel would, checks what is promised, and
/// returns how many mappings it comes to.
pub fn load(file: &[u8], target: &Target, base: u64) -> Result<usize, ElfError> {
    let size = file.len() as u64;
    let prefix = &file[..file.len().min(4096)];
    let header = Header::parse(prefix, size, target)?;
    assert!(header.table().len <= target.page_size());
    let image = header.check(slice(file, header.table().offset, header.table().len))?;
    let plan = image.plan(base)?;
    if let Some(at) = plan.interpreter() {
        let path = interpreter_path(slice(file, at.offset, at.len))?;
        assert!(!path.is_empty() && !path.contains(&0));
    }
    check_plan(&image, &plan, size, target);
    Ok(plan.steps().count())
}

/// The bytes a stage asked for: they must lie in the file.
fn slice(file: &[u8], offset: u64, len: u64) -> &[u8] {
    let start = usize::try_from(offset).expect("asked for bytes beyond the file");
    &file[start..][..usize::try_from(len).expect("asked for bytes beyond the file")]
}

fn check_plan(image: &Checked<'_>, plan: &Plan<'_>, size: u64, target: &Target) {
    let page = u128::from(target.page_size());
    let user = u128::from(target.user.start)..u128::from(target.user.end);
    let mut last_end = user.start;
    for step in plan.steps() {
        let (start, len) = (u128::from(step.addr), u128::from(step.len));
        assert!(
            start % page == 0 && len % page == 0 && len > 0,
            "{step:x?} is not whole pages"
        );
        assert!(start >= last_end, "{step:x?} overlaps the one before");
        assert!(
            start + len <= user.end,
            "{step:x?} is not in the user range"
        );
        last_end = start + len;
        if let StepKind::File { offset } = step.kind {
            let offset = u128::from(offset);
            assert!(offset % page == 0, "{step:x?} starts within a file page");
            // Every page has at least one byte of the file: none can be SIGBUS.
            assert!(
                offset + len < u128::from(size) + page,
                "{step:x?} lies past the file"
            );
        }
        if let Some(zero) = &step.zero {
            let zero = u128::from(zero.start)..u128::from(zero.end);
            assert!(
                !zero.is_empty() && zero.end == last_end,
                "{step:x?} zeroes elsewhere"
            );
            assert!(
                zero.end - zero.start < page,
                "{step:x?} zeroes more than a tail"
            );
            assert!(
                matches!(step.kind, StepKind::File { .. }),
                "{step:x?} zeroes zeroes"
            );
        }
    }
    check_bytes(image, plan, target);
    let range = plan.range();
    assert_eq!(u128::from(range.end), last_end);
    let heap = u128::from(plan.brk());
    assert!(
        heap >= last_end && heap % page == 0 && heap <= user.end,
        "the heap does not follow the image"
    );
    assert_eq!(plan.steps().next().unwrap().addr, range.start);
    assert_eq!(
        plan.start(None).is_ok(),
        plan.entry() < target.user.end,
        "a start outside of user space"
    );
    assert!(plan.end() <= range.end && range.end - plan.end() < target.page_size());
    if image.header().kind() == ImageKind::Fixed {
        assert_eq!(plan.bias(), 0);
    } else {
        assert_eq!(
            plan.bias() & (image.align() - 1),
            0,
            "bias breaks an alignment"
        );
    }
}

/// First and last byte of the file part and of the zero part of each segment
/// are where the headers put them.
fn check_bytes(image: &Checked<'_>, plan: &Plan<'_>, target: &Target) {
    for segment in image.segments() {
        let at = |n: u64| segment.addr.wrapping_add(n).wrapping_add(plan.bias());
        if segment.file.len > 0 {
            for n in [0, segment.file.len - 1] {
                let want = Content::File(segment.file.offset + n);
                assert_eq!(
                    content(plan, at(n), target),
                    want,
                    "byte {n:#x} of {segment:x?}"
                );
            }
        }
        if segment.file.len < segment.mem_bytes {
            for n in [segment.file.len, segment.mem_bytes - 1] {
                let got = content(plan, at(n), target);
                assert_eq!(got, Content::Zero, "byte {n:#x} of {segment:x?}");
            }
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Content {
    File(u64),
    Zero,
    Nothing,
}

/// What a program would read at an address.
fn content(plan: &Plan<'_>, addr: u64, target: &Target) -> Content {
    assert!(target.user.contains(&addr));
    let Some(step) = plan
        .steps()
        .find(|s| s.addr <= addr && addr - s.addr < s.len)
    else {
        return Content::Nothing;
    };
    match step.kind {
        _ if step.zero.as_ref().is_some_and(|z| z.contains(&addr)) => Content::Zero,
        StepKind::File { offset } => Content::File(offset + (addr - step.addr)),
        StepKind::Anonymous => Content::Zero,
    }
}

/// Tries arbitrary bytes on the machine that the first byte picks, at a base
/// that the next eight pick: the body of the fuzz target.
pub fn any_bytes(data: &[u8]) {
    let Some((&pick, rest)) = data.split_first() else {
        return;
    };
    let Some((base, file)) = rest.split_first_chunk::<8>() else {
        return;
    };
    let mut target = target(MACHINES[usize::from(pick & 0x7) % MACHINES.len()]);
    target.page_shift = if pick & 0x80 == 0 { 12 } else { 16 };
    if target.page_shift == 16 {
        target.user.start = 0x1_0000;
    }
    for base in [u64::from_le_bytes(*base), 0x5555_5555_0000, 0x1_0000] {
        if let Err(error) = load(file, &target, base) {
            assert!([7, 8, 12, 22].contains(&error.errno()), "{error}");
            assert!(
                !matches!(error, ElfError::ShortBuffer { .. }),
                "all bytes were there"
            );
        }
    }
}
