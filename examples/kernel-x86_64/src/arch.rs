//! This machine as the portable kernel sees it.

use x86_64::instructions::interrupts;

use crate::frame::{self, UserFrame};
use crate::platform::Pc;
use crate::thread::{self, Thread};
use crate::{
    apic, clock, console, cpu, kernel_table, platform, power, random, shootdown, signal, smp,
};
use mm_core::space::Root;
use mm_kernel::arch::{Arch, BadFrame, Outcome, SignalDelivery, SignalReturn, SyscallAbi};

/// An x86-64 PC.
pub struct X86_64;

impl Arch for X86_64 {
    type Platform = Pc;
    type Frame = UserFrame;
    type Thread = Thread;

    const ELF_MACHINE: u16 = 62;
    const MACHINE: &'static str = "x86_64";
    const SYSCALL_ABI: SyscallAbi = SyscallAbi::X86_64;
    const PAGE_SHIFT: u32 = crate::platform::PAGE_SHIFT;
    const USER_START: usize = 0x1_0000;
    const CALL_PAGE: Option<usize> = Some(crate::vsyscall::PAGE);
    const TICKS_PER_SECOND: u64 = clock::TICKS_PER_SECOND;
    const MAX_CPUS: usize = cpu::MAX_CPUS;

    fn user_end(&self) -> usize {
        frame::USER_END
    }

    fn cpu(&self) -> usize {
        cpu::id()
    }

    fn start_cpus(&self) {
        if let Some(cpus) = crate::CPUS.get() {
            smp::start(cpus);
        }
    }

    fn kick(&self, cpu: usize) {
        smp::interrupt(cpu, apic::KICK);
    }

    fn remote_flushes(&self) -> usize {
        shootdown::rounds()
    }

    fn wait_for_interrupt(&self) {
        interrupts::enable_and_hlt();
        interrupts::disable();
    }

    fn poll_interrupts(&self) {
        interrupts::enable();
        // `sti` takes effect after the next instruction.
        x86_64::instructions::nop();
        interrupts::disable();
    }

    fn monotonic_ns(&self) -> u64 {
        clock::monotonic_ns()
    }

    fn boot_time(&self) -> u64 {
        clock::boot_time()
    }

    fn random(&self, bytes: &mut [u8]) {
        random::fill(bytes);
    }

    fn hardware_capabilities(&self) -> (usize, usize) {
        (cpu::features().hwcap as usize, 0)
    }

    fn drain_heap(&self) {
        platform::drain_heap();
    }

    fn heap_frames(&self) -> usize {
        platform::heap_frames()
    }

    fn console_write(&self, bytes: &[u8]) {
        console::write(bytes);
    }

    fn console_read(&self) -> Option<u8> {
        console::read()
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
        unsafe { kernel_table::load(root) }
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
