//! This machine as the portable kernel sees it.

use crate::frame::UserFrame;
use crate::platform::{self, VA_BITS, Virt};
use crate::thread::{self, Thread};
use crate::{clock, cpu, devices, kernel_table, power, signal, smp};
use mm_core::space::Root;
use mm_kernel::arch::{Arch, BadFrame, Outcome, SignalDelivery, SignalReturn, SyscallAbi};

/// An AArch64 machine.
pub struct Aarch64;

impl Arch for Aarch64 {
    type Platform = Virt;
    type Frame = UserFrame;
    type Thread = Thread;

    const ELF_MACHINE: u16 = 183;
    const MACHINE: &'static str = "aarch64";
    const SYSCALL_ABI: SyscallAbi = SyscallAbi::Generic;
    const PAGE_SHIFT: u32 = platform::PAGE_SHIFT;
    const USER_START: usize = 0x1_0000;
    const TICKS_PER_SECOND: u64 = clock::TICKS_PER_SECOND;
    const MAX_CPUS: usize = cpu::MAX_CPUS;

    fn user_end(&self) -> usize {
        1 << VA_BITS
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
        cpu::wait_for_interrupt();
    }

    fn poll_interrupts(&self) {
        cpu::poll_interrupts();
    }

    fn monotonic_ns(&self) -> u64 {
        clock::monotonic_ns()
    }

    fn boot_time(&self) -> u64 {
        clock::boot_time()
    }

    fn random(&self, bytes: &mut [u8]) {
        clock::random(bytes);
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
        devices::CONSOLE.write(bytes);
    }

    fn console_read(&self) -> Option<u8> {
        devices::CONSOLE.read()
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
