//! Until the portable kernel is here: two threads that run a few bytes of user code.
//!
//! Each asks for a write, changes an SSE register, spins until it was preempted, checks the
//! register, loads from an address that is not mapped, is told to go on, and exits.

use core::arch::global_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Once;
use x86_64::registers::control::Cr3;

use crate::arch::X86_64;
use crate::frame::UserFrame;
use crate::memory::direct;
use crate::thread::Thread;
use crate::trap;
use mm_kernel::arch::{Arch, Frame, Interrupt, Kernel, Outcome, Trap};

const CODE: usize = 0x40_0000;
const STACK: usize = 0x60_0000;
const FAULT: usize = 0xdead_0000;

struct Proof {
    threads: [Thread; 2],
    idle: Thread,
    current: AtomicUsize,
    ticks: AtomicUsize,
    faults: AtomicUsize,
    exits: AtomicUsize,
    switches: AtomicUsize,
}

static PROOF: Once<Proof> = Once::new();

#[repr(C, align(4096))]
struct Page(core::cell::UnsafeCell<[u64; 512]>);
// SAFETY: written by one CPU at boot only.
unsafe impl Sync for Page {}
static TABLES: [Page; 6] = [const { Page(core::cell::UnsafeCell::new([0; 512])) }; 6];

unsafe extern "C" {
    static proof_code: u8;
    static proof_code_end: u8;
}

/// Runs the proof and powers off.
pub fn run() -> ! {
    map_user();
    let arch = X86_64;
    let proof = PROOF.call_once(|| Proof {
        threads: [0, 1].map(|index| arch.new_thread(start, index).expect("a stack")),
        idle: arch.boot_thread(),
        current: AtomicUsize::new(0),
        ticks: AtomicUsize::new(0),
        faults: AtomicUsize::new(0),
        exits: AtomicUsize::new(0),
        switches: AtomicUsize::new(0),
    });
    trap::register(proof);
    let before = arch.monotonic_ns();
    for _ in 0..10 {
        arch.wait_for_interrupt();
    }
    let mut random = [0; 8];
    arch.random(&mut random);
    log::info!(
        "10 ticks took {} ms; random {random:x?}; date {}",
        (arch.monotonic_ns() - before) / 1_000_000,
        arch.boot_time()
    );
    // SAFETY: the boot thread runs, the first thread is new.
    unsafe { arch.switch(&proof.idle, &proof.threads[0]) };
    log::info!(
        "faults {}, exits {}, switches {}, ticks {}",
        proof.faults.load(Ordering::Relaxed),
        proof.exits.load(Ordering::Relaxed),
        proof.switches.load(Ordering::Relaxed),
        proof.ticks.load(Ordering::Relaxed)
    );
    arch.power_off(Outcome::Success)
}

extern "C" fn start(index: usize) -> ! {
    let proof = PROOF.get().expect("made before");
    let mut frame = UserFrame::new(CODE, STACK - 64 - index * 1024);
    frame.rbx = index + 1;
    // SAFETY: this is the running thread; it owns nothing.
    unsafe { X86_64.enter_user(&proof.threads[index], &frame) }
}

impl Proof {
    fn swap(&self) {
        let now = self.current.load(Ordering::Relaxed);
        self.current.store(1 - now, Ordering::Relaxed);
        self.switches.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `now` runs, the other does not.
        unsafe { X86_64.switch(&self.threads[now], &self.threads[1 - now]) };
    }
}

impl Kernel<X86_64> for Proof {
    fn user_trap(&self, frame: &mut UserFrame, trap: Trap) {
        match trap {
            Trap::Syscall if frame.syscall_number() == 1 => {
                let bytes: alloc_free::Bytes =
                    alloc_free::copy(frame.arguments()[1], frame.arguments()[2]);
                X86_64.console_write(bytes.get());
                frame.set_return(frame.arguments()[2] as isize);
            }
            Trap::Syscall if frame.syscall_number() == 60 => {
                log::info!(
                    "thread {} exits with {}",
                    self.current.load(Ordering::Relaxed),
                    frame.arguments()[0]
                );
                if self.exits.fetch_add(1, Ordering::Relaxed) == 1 {
                    let now = self.current.load(Ordering::Relaxed);
                    // SAFETY: the idle thread waits in `run`.
                    unsafe { X86_64.switch(&self.threads[now], &self.idle) };
                }
                self.swap();
            }
            Trap::Fault { address, access } => {
                log::info!(
                    "fault at {address:#x} {access:?} from {:#x}, sp {:#x}",
                    frame.pc(),
                    frame.sp()
                );
                self.faults.fetch_add(1, Ordering::Relaxed);
                assert_eq!(address, FAULT);
                frame.rax = FAULT;
                frame.set_pc(frame.pc() + 8);
            }
            Trap::Interrupt(interrupt) => {
                self.interrupt(interrupt);
                if self.exits.load(Ordering::Relaxed) == 0 {
                    self.swap();
                }
            }
            other => panic!("{other:?} {frame:#x?}"),
        }
    }

    fn interrupt(&self, interrupt: Interrupt) {
        if interrupt == Interrupt::Tick {
            self.ticks.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Reads user memory through the one page that is mapped for it.
mod alloc_free {
    use super::{CODE, TABLES};
    pub struct Bytes([u8; 64], usize);
    impl Bytes {
        pub fn get(&self) -> &[u8] {
            &self.0[..self.1]
        }
    }
    pub fn copy(address: usize, length: usize) -> Bytes {
        let mut bytes = Bytes([0; 64], length.min(64));
        // SAFETY: the code page is TABLES[4].
        let page = unsafe { core::slice::from_raw_parts(TABLES[4].0.get().cast::<u8>(), 4096) };
        bytes.0[..length].copy_from_slice(&page[address - CODE..][..length]);
        bytes
    }
}

fn map_user() {
    let physical =
        |index: usize| (TABLES[index].0.get() as usize - crate::memory::KERNEL_BASE) as u64;
    let table = |index: usize| TABLES[index].0.get().cast::<u64>();
    // SAFETY: one CPU, tables unused so far; the low half of the boot table is given up.
    unsafe {
        table(0).write(physical(1) | 7);
        table(1).add(2).write(physical(2) | 7);
        table(2).write(physical(4) | 7);
        // The stack page: below STACK.
        table(2).add(511).write(physical(5) | 7);
        let code = core::slice::from_raw_parts(
            &raw const proof_code,
            (&raw const proof_code_end) as usize - (&raw const proof_code) as usize,
        );
        core::ptr::copy_nonoverlapping(code.as_ptr(), table(4).cast(), code.len());
        let (root, flags) = Cr3::read();
        (direct(root.start_address().as_u64()) as *mut u64).write(physical(0) | 7);
        Cr3::write(root, flags);
    }
}

global_asm!(
    r#"
    .pushsection .rodata.proof, "a", @progbits
    .global proof_code
    .global proof_code_end
proof_code:
    mov r15, rsp
    mov eax, 1
    mov edi, 1
    lea rsi, [rip + 7f]
    mov edx, 21
    syscall
    cmp rax, 21
    jne 9f
    movq xmm5, rbx
    mov ecx, 300000000
2:  dec ecx
    jnz 2b
    movq rax, xmm5
    cmp rax, rbx
    jne 9f
    cmp rsp, r15
    jne 9f
    mov ecx, 0xdead0000
    mov rax, [rcx]
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00   /* with the load: 8 bytes to skip */
    mov edx, 0xdead0000
    cmp rax, rdx
    jne 9f
    cmp rsp, r15
    jne 9f
    mov edi, 0
    mov eax, 60
    syscall
9:  mov edi, 1
    mov eax, 60
    syscall
    ud2
7:  .ascii "Hello from user mode\n"
proof_code_end:
    .popsection
    "#
);
