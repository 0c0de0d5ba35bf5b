//! Objects: cached pages by offset, and who maps them.

mod ticket;

pub use ticket::TicketKey;
