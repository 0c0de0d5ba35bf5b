//! Maps a program's image, waiting where the family says so.

use mm_elf::{ImageLoad, Plan};

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
}
