//! Which extensions of virtual memory a hart has.
//!
//! The device tree says it of each CPU: in the strings of `riscv,isa-extensions`,
//! or in the one string of `riscv,isa` (`rv64imafdch_zicsr_svnapot_svpbmt`).

/// The extensions that change page tables or fences.
///
/// The default is what is right on every hart: no entry is written in a form
/// that a hart may not know, hardware is taken to set accessed and dirty bits
/// (a hart that faults instead is served by the fault), and to remember
/// invalid entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent extensions, by their names"
)]
pub struct Extensions {
    /// Runs of sixteen pages (64 KiB) in one TLB entry.
    pub svnapot: bool,
    /// Memory types in entries.
    pub svpbmt: bool,
    /// Hardware may set accessed and dirty bits. False only where it is known
    /// to fault instead (Svade).
    pub sets_ad: bool,
    /// An entry that became valid is seen without a fence, within bounded time:
    /// a fault before that is spurious, and its retry succeeds. The kernel's own
    /// entries, too: only for kernels that try their own faults again.
    pub svvptc: bool,
    /// Fences may be split, so that many addresses cost one wait.
    pub svinval: bool,
}

impl Extensions {
    /// What every hart can be taken to be.
    pub const NONE: Self = Self {
        svnapot: false,
        svpbmt: false,
        sets_ad: true,
        svvptc: false,
        svinval: false,
    };

    /// Reads extensions' names, each a string of `riscv,isa-extensions`.
    ///
    /// A hart that lists both Svade and Svadu faults until its firmware is
    /// asked to let it write; whether that happened is not in the list, so it
    /// is taken to write. A hart that lists neither may do either.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all = Self::NONE;
        let (mut svade, mut svadu) = (false, false);
        for name in names {
            match name {
                "svnapot" => all.svnapot = true,
                "svpbmt" => all.svpbmt = true,
                "svvptc" => all.svvptc = true,
                "svinval" => all.svinval = true,
                "svade" => svade = true,
                "svadu" => svadu = true,
                _ => {}
            }
        }
        all.sets_ad = svadu || !svade;
        all
    }

    /// Reads the string of `riscv,isa`: extensions of several letters follow
    /// underscores.
    pub fn from_isa(isa: &str) -> Self {
        Self::from_names(isa.split('_').skip(1))
    }

    /// Returns what both have: of a machine whose harts differ.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self {
            svnapot: self.svnapot && other.svnapot,
            svpbmt: self.svpbmt && other.svpbmt,
            sets_ad: self.sets_ad || other.sets_ad,
            svvptc: self.svvptc && other.svvptc,
            svinval: self.svinval && other.svinval,
        }
    }
}

impl Default for Extensions {
    fn default() -> Self {
        Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_behind_the_single_letters() {
        let all = Extensions::from_isa("rv64imafdcsvh_zicsr_svinval_svnapot_svpbmt");
        assert!(all.svinval && all.svnapot && all.svpbmt && !all.svvptc);
        // The letters s and v are not names.
        assert_eq!(Extensions::from_isa("rv64svnapot"), Extensions::NONE);
        assert_eq!(Extensions::from_names([]), Extensions::NONE);
    }

    #[test]
    fn hardware_sets_bits_unless_it_is_known_to_fault() {
        assert!(Extensions::from_names([]).sets_ad);
        assert!(!Extensions::from_names(["svade"]).sets_ad);
        assert!(Extensions::from_names(["svadu"]).sets_ad);
        assert!(Extensions::from_names(["svade", "svadu"]).sets_ad);
    }

    #[test]
    fn a_machine_has_what_all_its_harts_have() {
        let some = Extensions::from_names(["svnapot", "svade"]);
        let other = Extensions::from_names(["svnapot", "svpbmt"]);
        let both = some.common(other);
        assert!(both.svnapot && !both.svpbmt && both.sets_ad);
    }
}
