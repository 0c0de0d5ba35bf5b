//! This machine as the portable kernel sees it.

use mm_core::space::Root;
use mm_kernel::arch::{Arch, BadFrame, Outcome, SignalDelivery, SignalReturn, SyscallAbi};

use crate::frame::UserFrame;
use crate::platform::{Board, PAGE_SHIFT};
use crate::thread::{self, Thread};
use crate::{clock, cpu, devices, harts, platform, signal};

/// A 64-bit RISC-V board.
pub struct Riscv64;

impl Arch for Riscv64 {
    type Platform = Board;
    type Frame = UserFrame;
    type Thread = Thread;

    const ELF_MACHINE: u16 = 243;
    const MACHINE: &'static str = "riscv64";
    const SYSCALL_ABI: SyscallAbi = SyscallAbi::Generic;
    const PAGE_SHIFT: u32 = PAGE_SHIFT;
    const USER_START: usize = 0x1_0000;
    const TICKS_PER_SECOND: u64 = clock::TICKS_PER_SECOND;
    const MAX_CPUS: usize = cpu::MAX_CPUS;

    fn user_end(&self) -> usize {
        platform::user_end()
    }

    fn cpu(&self) -> usize {
        cpu::id()
    }

    fn start_cpus(&self) {
        harts::start_all();
    }

    fn kick(&self, cpu: usize) {
        harts::kick(cpu);
    }

    fn remote_flushes(&self) -> usize {
        platform::remote_flushes()
    }

    fn wait_for_interrupt(&self) {
        cpu::sleep();
        cpu::open_window();
    }

    fn poll_interrupts(&self) {
        cpu::open_window();
    }

    fn monotonic_ns(&self) -> u64 {
        clock::monotonic_ns()
    }

    fn boot_time(&self) -> u64 {
        devices::boot_time()
    }

    fn random(&self, bytes: &mut [u8]) {
        devices::random(bytes);
    }

    fn hardware_capabilities(&self) -> (usize, usize) {
        (cpu::hwcap(), 0)
    }

    fn drain_heap(&self) {
        platform::drain_heap();
    }

    fn heap_frames(&self) -> usize {
        platform::heap_frames()
    }

    fn console_write(&self, bytes: &[u8]) {
        devices::write(bytes);
    }

    fn console_read(&self) -> Option<u8> {
        devices::read()
    }

    fn power_off(&self, outcome: Outcome) -> ! {
        devices::power_off(outcome)
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
        unsafe { platform::load(root) }
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
