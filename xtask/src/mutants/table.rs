//! The table of mutants: a row for each test that must notice one.
//!
//! A row is the mutant's name, the tool that notices, the tool's target and the test. A mutant with
//! several rows is noticed by each of them.

/// Who notices that a line is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tool {
    /// A model of `tests/loom`, with two preemptions.
    Loom,
    /// A model that needs three.
    Loom3,
    /// A test of `tests/tests`: CPUs with software TLBs, instruction caches, the oracle.
    Kit,
    /// The random schedules of `tests/shuttle`, as many as a plain run plays.
    Schedules,
    /// A crate's own tests: the sequences of instructions of an architecture.
    Own,
}

/// One test that notices a mutant.
#[derive(Debug)]
pub struct Row {
    /// What `cfg(mm_mutant = "...")` names.
    pub mutant: &'static str,
    pub tool: Tool,
    /// A test target of `tests`, or the crate whose own test it is.
    pub target: &'static str,
    /// The test's whole name.
    pub test: &'static str,
}

macro_rules! rows {
    ($($mutant:ident $tool:ident $target:literal $test:literal;)*) => {
        &[$(Row {
            mutant: stringify!($mutant),
            tool: Tool::$tool,
            target: $target,
            test: $test,
        }),*]
    };
}

/// All rows; those of one mutant stand together.
#[rustfmt::skip]
pub const ROWS: &[Row] = rows! {
    mark_without_wait            Loom "loom_fault" "fault_and_unmap";
    mark_without_wait            Loom "loom_fault" "fault_and_protect";
    no_recheck                   Loom "vma_mark" "h11_a_reused_node_is_not_entered_under_its_old_name";
    change_what_is_busy          Loom "loom_fault" "unmap_and_fork";
    replaced_is_gone             Loom "loom_fault" "fault_and_fixed_map";
    last_put_without_acquire     Loom "loom_page" "the_last_put_is_one";
    finder_revives               Loom "loom_page" "a_finder_gets_a_reference_or_none";
    refused_map_counts           Loom "loom_page" "a_full_count_is_refused";
    claim_without_exchange       Loom "loom_page" "a_double_free_is_one_error";
    full_magazine_is_lost        Loom "loom_front" "alloc_and_free";
    transfers_unseen             Loom "loom_front" "the_last_frame";
    drain_unlocked               Loom "loom_front" "the_last_frame";
    full_node_magazine_is_lost   Loom "loom_nodes" "alloc_and_free";
    drained_magazine_stays       Loom "loom_nodes" "alloc_and_drain";
    node_transfers_unseen        Loom "loom_nodes" "the_last_node";
    node_claimed_by_all          Loom "loom_nodes" "free_twice";
    kept_table_goes              Kit "areas" "a_device_over_the_only_pages_of_a_table_is_there";
    pin_without_fence            Loom "loom_pool" "a_reader_is_waited_for";
    grace_without_fence          Loom "loom_pool" "a_reader_is_waited_for";
    drain_without_grace          Loom "loom_pool" "a_stale_handle_reads_a_node";
    wake_before_unlock           Loom "loom_cache" "one_reads_and_all_get_it";
    locked_without_second_look   Loom "loom_cache" "one_reads_and_all_get_it";
    found_without_second_look    Loom "loom_cache" "who_looks_gets_the_page_or_none";
    lookup_unpinned              Loom "loom_cache" "an_index_is_not_drained_under_a_reader";
    inserted_past_the_end        Loom "loom_cache" "nothing_is_read_in_past_the_end";
    walk_without_lock            Loom "loom_rmap" "walk_and_unlink";
    owner_without_second_look    Loom "loom_rmap" "walk_and_last";
    no_second_look               Loom "loom_fault" "fault_and_fault";
    exclusive_after_fork         Loom "loom_fault" "fault_and_fork";
    exclusive_after_fork        Schedules "schedules" "whole_verbs_keep_their_promises_whatever_the_schedule";
    unmark_before_flush          Loom3 "loom_fault" "cow_and_fork";
    exchange_without_look        Loom "loom_fault" "cow_and_cow";
    exchange_without_look        Schedules "schedules" "whole_verbs_keep_their_promises_whatever_the_schedule";
    copy_without_reference       Loom "loom_fault" "cow_and_drop_shared";
    reuse_without_lock           Loom "loom_fault" "cow_and_drop";
    grow_without_look            Loom "loom_space" "stack_and_map";
    users_counted_in_two_steps   Loom "loom_space" "fault_and_exec";
    unmap_before_size            Loom "loom_object" "load_and_truncate";
    unmark_before_rewrite        Loom "loom_space" "protect_and_protect";
    user_copy_without_lock       Loom "loom_space" "copy_and_protect";
    user_copy_without_lock       Loom "loom_space" "copy_and_drop";
    map_past_the_end             Loom "loom_object" "load_and_truncate";
    map_past_the_end             Loom "loom_object" "copy_and_truncate";
    map_what_was_dropped         Loom "loom_object" "load_and_regrow";
    pass_over_freed_table        Loom "loom_object" "fork_and_truncate";
    publish_without_fence        Loom "loom_table" "activate_and_flush";
    activate_without_fence       Loom "loom_table" "activate_and_flush";
    switch_without_fence         Loom "loom_tags" "flush_and_rollover";
    missed_cpus_are_not_noted    Loom "loom_tags" "shootdown_and_lazy";
    missed_flush_is_forgotten    Loom "loom_tags" "shootdown_and_switch";
    generation_without_flush     Loom "loom_tags" "asid_rollover";
    running_tags_are_given_out   Loom "loom_tags" "asid_rollover";
    generation_is_not_looked_at  Loom "loom_tags" "asid_rollover";
    readers_first                Loom "loom_waiting" "a_writer_that_waits_is_next";
    writer_waits_for_ever        Loom "loom_waiting" "two_writers_both_get_in";
    bit_lock_without_release     Loom "loom_waiting" "the_bit_is_held_by_one";

    gather_without_flush         Kit "flushes" "f4_who_was_not_told_catches_up_before_a_user_runs";

    riscv_asks_without_fence     Own "mm-riscv" "tlb::tests::other_harts_are_asked_after_a_fence";
};
