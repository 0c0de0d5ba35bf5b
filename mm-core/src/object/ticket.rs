//! Transfers as data: what to wait for.

/// The name of one transfer under way: whoever joined it is woken with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TicketKey {
    /// The frame that is being filled or written.
    pub frame: crate::addr::Pfn,
}
