//! The test world of the mm family.
