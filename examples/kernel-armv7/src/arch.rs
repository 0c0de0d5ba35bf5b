//! This machine as the portable kernel sees it.

use core::arch::asm;

use mm_core::space::Root;
use mm_kernel::arch::{Arch, BadFrame, Outcome, SignalDelivery, SignalReturn, SyscallAbi};

use crate::devices::{CONSOLE, RANDOM};
use crate::frame::{self, UserFrame};
use crate::platform::{self, Virt};
use crate::thread::{self, Thread};
use crate::{clock, code, cpu, devices, power, signal, smp};

/// An Armv7-A machine.
pub struct Armv7;

impl Arch for Armv7 {
    type Platform = Virt;
    type Frame = UserFrame;
    type Thread = Thread;

    const ELF_MACHINE: u16 = 40;
    const MACHINE: &'static str = "armv7l";
    const SYSCALL_ABI: SyscallAbi = SyscallAbi::Arm;
    const PAGE_SHIFT: u32 = platform::PAGE_SHIFT;
    const USER_START: usize = 0x1_0000;
    const TICKS_PER_SECOND: u64 = clock::TICKS_PER_SECOND;
    const MAX_CPUS: usize = cpu::MAX_CPUS;

    fn user_end(&self) -> usize {
        frame::USER_END
    }

    fn cpu(&self) -> usize {
        cpu::id()
    }

    fn start_cpus(&self) {
        smp::start();
    }

    fn kick(&self, cpu: usize) {
        devices::kick(cpu);
    }

    fn remote_flushes(&self) -> usize {
        platform::remote_flushes()
    }

    fn wait_for_interrupt(&self) {
        // SAFETY: a masked interrupt ends WFI too, so none is missed between the two.
        unsafe { asm!("dsb", "wfi", "cpsie i", "isb", "cpsid i") };
    }

    fn poll_interrupts(&self) {
        // SAFETY: the handlers expect interrupts of the kernel here and in WFI.
        unsafe { asm!("cpsie i", "isb", "cpsid i") };
    }

    fn monotonic_ns(&self) -> u64 {
        clock::monotonic_ns()
    }

    fn boot_time(&self) -> u64 {
        clock::boot_time()
    }

    fn random(&self, bytes: &mut [u8]) {
        RANDOM.seed(clock::counter());
        RANDOM.fill(bytes);
    }

    fn hardware_capabilities(&self) -> (usize, usize) {
        (cpu::hardware_capabilities(), 0)
    }

    fn drain_heap(&self) {
        platform::drain_heap();
    }

    fn heap_frames(&self) -> usize {
        platform::heap_frames()
    }

    fn console_write(&self, bytes: &[u8]) {
        CONSOLE.write(bytes);
    }

    fn console_read(&self) -> Option<u8> {
        CONSOLE.read()
    }

    fn power_off(&self, outcome: Outcome) -> ! {
        power::off(outcome)
    }

    fn new_thread(&self, entry: extern "C" fn(usize) -> !, argument: usize) -> Option<Thread> {
        Thread::new(entry, argument)
    }

    fn boot_thread(&self) -> Thread {
        Thread::boot()
    }

    unsafe fn switch(&self, from: &Thread, to: &Thread) {
        // SAFETY: the same contract.
        unsafe { thread::switch(from, to) }
    }

    unsafe fn enter_user(&self, current: &Thread, frame: &UserFrame) -> ! {
        // SAFETY: the same contract.
        unsafe { thread::enter_user(current, frame) }
    }

    fn copy_fp_state(&self, child: &Thread) {
        thread::copy_fp_state(child);
    }

    fn reset_fp_state(&self) {
        thread::reset_fp_state();
    }

    unsafe fn load_root(&self, root: Root) {
        // SAFETY: the same contract.
        unsafe { platform::load_root(root) }
    }

    fn sync_user_page(&self, page: usize) {
        code::sync_user(page);
    }

    fn push_signal(
        &self,
        frame: &mut UserFrame,
        delivery: &SignalDelivery,
        write: &mut dyn FnMut(usize, &[u8]) -> bool,
    ) -> Result<(), BadFrame> {
        signal::push(frame, delivery, write)
    }

    fn pop_signal(
        &self,
        frame: &mut UserFrame,
        read: &mut dyn FnMut(usize, &mut [u8]) -> bool,
    ) -> Result<SignalReturn, BadFrame> {
        signal::pop(frame, read)
    }
}
