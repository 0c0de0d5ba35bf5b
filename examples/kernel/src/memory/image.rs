//! Makes what a program starts with: its image, its stack and its heap, waiting where the family
//! says so.

use mm_elf::load::{SpaceSink, Stopped};
use mm_elf::{ImageLoad, Plan, StackImage};

use super::{FileData, Space};
use crate::arch::Arch;
use crate::errno::Result;
use crate::system::System;

impl<A: Arch> System<A> {
    /// Maps the image that `plan` describes into a space that nobody runs in yet. Its pages come
    /// on first touch; only those in which the file's bytes end are read now.
    ///
    /// # Errors
    /// As mmap(2), `EIO`; the image is then half there, and the space is to be dropped.
    pub fn load_image(&self, space: &Space<A>, data: &FileData<A>, plan: &Plan<'_>) -> Result<()> {
        let mut load = ImageLoad::new(&space.inner, &data.object, plan);
        while let Some(ticket) = load.advance()? {
            self.await_ticket(ticket)?;
        }
        Ok(())
    }

    /// Writes the first words of a program's stack.
    ///
    /// # Errors
    /// `EFAULT`, `ENOMEM`.
    pub fn write_stack<'s, V, E>(
        &self,
        space: &Space<A>,
        stack: &StackImage<'_, V, E>,
    ) -> Result<()>
    where
        V: Iterator<Item = &'s [u8]> + Clone,
        E: Iterator<Item = &'s [u8]> + Clone,
    {
        let mut done = 0;
        loop {
            match stack.write(&mut SpaceSink(&space.inner), &mut done) {
                Ok(()) => return Ok(()),
                Err(Stopped::Wait(ticket)) => self.await_ticket(ticket)?,
                Err(Stopped::Error(error)) => return Err(error.into()),
            }
        }
    }
}

impl<A: Arch> Space<A> {
    /// Maps a stack that ends at `top` and grows down, `length` bytes of it at once, beside what is
    /// there.
    ///
    /// # Errors
    /// As mmap(2); `EEXIST` where the program's image is.
    pub fn map_stack(&self, top: usize, length: usize, plan: &Plan<'_>) -> Result<()> {
        let prot = plan.stack().prot();
        mm_elf::load::map_stack(&self.inner, top as u64, length as u64, prot)?;
        Ok(())
    }

    /// Says that the heap starts behind a program's image.
    ///
    /// # Errors
    /// `ENOMEM` where there is no such address.
    pub fn set_heap(&mut self, plan: &Plan<'_>) -> Result<()> {
        mm_elf::load::set_heap(&self.inner, plan)?;
        self.heap_start = plan.brk() as usize;
        Ok(())
    }
}
