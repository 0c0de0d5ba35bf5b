//! The table of mutants: a row for each test that must notice one.
//!
//! A row is the mutant's name, the tool that notices, the tool's target and the test. A mutant with
//! several rows is noticed by each of them.

/// Who notices that a line is broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
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
    mark_without_wait              Loom  "loom_fault" "fault_and_unmap";
    mark_without_wait              Loom  "loom_fault" "fault_and_protect";
    mark_without_wait              Loom  "vma_mark" "h11_no_fault_is_inside_between_mark_and_commit";
    mark_without_wait              Schedules "schedules" "whole_verbs_keep_their_promises_whatever_the_schedule";
    reader_leaves_without_release  Loom  "vma_mark" "h11_no_fault_is_inside_between_mark_and_commit";
    writer_leaves_without_release  Loom  "vma_mark" "h11_no_fault_is_inside_between_mark_and_commit";
    fault_waits_with_the_lock      Kit   "crossing" "f6_lesson_54_a_fault_that_waits_for_who_is_busy_lets_flushes_in";
    no_recheck                     Loom  "vma_mark" "h11_a_reused_node_is_not_entered_under_its_old_name";
    change_what_is_busy            Kit   "busy" "a_verb_waits_for_the_one_that_is_busy_with_its_range";
    change_what_is_busy            Loom  "loom_space" "protect_and_protect";
    change_what_is_busy            Loom  "loom_space" "unmap_and_unmap";
    fork_waits_for_nobody          Loom  "loom_fault" "unmap_and_fork";
    fork_waits_for_nobody          Schedules "schedules" "whole_verbs_keep_their_promises_whatever_the_schedule";
    replaced_is_gone               Loom  "loom_fault" "fault_and_fixed_map";
    last_put_without_acquire       Loom  "loom_page" "the_last_put_is_one";
    finder_revives                 Loom  "loom_page" "a_finder_gets_a_reference_or_none";
    refused_map_counts             Loom  "loom_page" "a_full_count_is_refused";
    claim_without_exchange         Loom  "loom_page" "a_double_free_is_one_error";
    claim_without_exchange         Loom  "loom_front" "free_twice";
    put_in_two_steps               Loom  "loom_object" "unmap_and_truncate";
    put_in_two_steps               Loom  "loom_object" "exit_and_truncate";
    full_magazine_is_lost          Loom  "loom_front" "alloc_and_free";
    transfers_unseen               Loom  "loom_front" "the_last_frame";
    drain_unlocked                 Loom  "loom_front" "the_last_frame";
    full_node_magazine_is_lost     Loom  "loom_nodes" "alloc_and_free";
    drained_magazine_stays         Loom  "loom_nodes" "alloc_and_drain";
    node_transfers_unseen          Loom  "loom_nodes" "the_last_node";
    node_claimed_by_all            Loom  "loom_nodes" "free_twice";
    kept_table_goes                Kit   "areas" "a_device_over_the_only_pages_of_a_table_is_there";
    pin_without_fence              Loom  "loom_pool" "a_reader_is_waited_for";
    pin_without_fence              Loom  "loom_pool" "a_reader_comes_again";
    grace_without_fence            Loom  "loom_pool" "a_reader_is_waited_for";
    grace_without_fence            Loom  "loom_pool" "a_reader_comes_again";
    grace_waits_for_one            Loom  "loom_pool" "two_readers_are_waited_for";
    drain_without_grace            Loom  "loom_pool" "a_stale_handle_reads_a_node";
    wake_before_unlock             Loom  "loom_cache" "one_reads_and_all_get_it";
    locked_without_second_look     Loom  "loom_cache" "one_reads_and_all_get_it";
    found_without_second_look      Loom3 "loom_cache" "who_looks_gets_the_page_or_none";
    life_is_looked_at_once         Loom  "loom_cache" "a_node_that_changes_its_level_is_not_followed";
    lookup_unpinned                Loom  "loom_cache" "an_index_is_not_drained_under_a_reader";
    inserted_past_the_end          Loom  "loom_cache" "nothing_is_read_in_past_the_end";
    charged_before_it_is_in        Loom  "loom_cache" "nobody_is_refused_what_another_makes";
    cut_off_and_charged            Loom  "loom_cache" "what_is_cut_off_is_given_back";
    walk_without_lock              Loom  "loom_rmap" "walk_and_unlink";
    walk_without_lock              Loom  "loom_rmap" "walk_and_fork";
    walk_without_lock              Loom  "loom_object" "exit_and_walk";
    entries_before_chains          Loom  "loom_rmap" "walk_and_fork";
    put_before_the_walk            Loom  "loom_object" "unmap_and_walk";
    walker_revives                 Loom  "loom_object" "unmap_and_walk";
    owner_without_second_look      Loom  "loom_rmap" "walk_and_last";
    chosen_without_look            Loom  "loom_rmap" "fault_and_fault_first";
    no_second_look                 Loom  "loom_fault" "fault_and_fault";
    no_second_look                 Schedules "schedules" "whole_verbs_keep_their_promises_whatever_the_schedule";
    exclusive_after_fork           Loom  "loom_fault" "fault_and_fork";
    exclusive_after_fork           Schedules "schedules" "whole_verbs_keep_their_promises_whatever_the_schedule";
    unmark_before_flush            Loom  "loom_fault" "cow_and_fork";
    exchange_without_look          Loom  "loom_fault" "cow_and_cow";
    exchange_without_look          Schedules "schedules" "whole_verbs_keep_their_promises_whatever_the_schedule";
    copy_without_reference         Loom  "loom_fault" "cow_and_drop_shared";
    copy_without_reference         Schedules "schedules" "whole_verbs_keep_their_promises_whatever_the_schedule";
    reuse_without_lock             Loom  "loom_fault" "cow_and_drop";
    grow_without_look              Loom  "loom_space" "stack_and_map";
    users_counted_in_two_steps     Loom  "loom_space" "fault_and_exec";
    unmap_before_size              Loom  "loom_object" "load_and_truncate";
    unmap_before_size              Loom  "loom_object" "store_and_truncate";
    unmap_before_size              Schedules "schedules" "whole_verbs_keep_their_promises_whatever_the_schedule";
    unmark_before_rewrite          Loom  "loom_space" "protect_and_protect";
    moved_without_mark             Loom  "loom_space" "remap_and_fault";
    moved_without_rmap_lock        Loom  "loom_object" "remap_and_truncate";
    moved_without_rmap_lock        Loom  "loom_object" "remap_and_walk";
    moved_without_waiting_for_flush Kit  "preempted" "what_is_cut_beside_a_move_is_remembered_by_nobody";
    moved_without_flush            Kit   "remap" "f5_nobody_uses_the_old_place_after_a_move";
    user_copy_without_lock         Loom  "loom_space" "copy_and_protect";
    user_copy_without_lock         Loom  "loom_space" "copy_and_drop";
    user_copy_without_lock         Loom  "loom_space" "copy_and_fork";
    map_past_the_end               Loom  "loom_object" "load_and_truncate";
    map_past_the_end               Loom  "loom_object" "copy_and_truncate";
    map_past_the_end               Loom  "loom_object" "store_and_truncate";
    map_past_the_end               Schedules "schedules" "whole_verbs_keep_their_promises_whatever_the_schedule";
    map_what_was_dropped           Loom  "loom_object" "load_and_regrow";
    hole_before_unmap              Loom  "loom_hole" "two_places_and_hole";
    hole_wakes_nobody              Loom  "loom_hole" "store_and_hole";
    pass_over_freed_table          Loom  "loom_object" "fork_and_truncate";
    equal_node_stands_in_front     Loom  "loom_object" "fork_and_truncate_private";
    dirty_without_lock             Loom  "loom_object" "store_and_clean";
    clean_after_protect            Loom  "loom_object" "store_and_clean";
    clean_after_protect            Loom  "loom_object" "store_again_and_clean";
    publish_without_fence          Loom  "loom_table" "activate_and_flush";
    activate_without_fence         Loom  "loom_table" "activate_and_flush";
    switch_without_fence           Loom  "loom_tags" "flush_and_rollover";
    missed_cpus_are_not_noted      Loom  "loom_tags" "shootdown_and_lazy";
    missed_flush_is_forgotten      Loom  "loom_tags" "shootdown_and_switch";
    generation_without_flush       Loom  "loom_tags" "asid_rollover";
    running_tags_are_given_out     Loom  "loom_tags" "asid_rollover";
    generation_is_not_looked_at    Loom  "loom_tags" "asid_rollover";
    round_is_not_looked_at         Kit   "asid" "f7_a_space_that_slept_for_a_round_of_generations_gets_a_new_tag";
    round_is_not_looked_at         Loom  "loom_tags" "sleep_and_rollover";
    round_is_told_last             Loom  "loom_tags" "sleep_and_rollover";
    readers_first                  Loom  "loom_waiting" "a_writer_that_waits_is_next";
    writer_waits_for_ever          Loom  "loom_waiting" "two_writers_both_get_in";
    writer_waits_for_ever          Loom  "loom_waiting" "who_writes_is_alone";
    bit_lock_without_release       Loom  "loom_waiting" "the_bit_is_held_by_one";

    // The rank checker.
    any_rank_is_released           Loom  "loom_rank" "who_keeps_the_order_is_let_in";
    tried_lock_is_preempted        Loom  "loom_rank" "who_keeps_the_order_is_let_in";
    rank_after_wait                Loom  "loom_rank" "who_breaks_the_order_is_refused";
    outermost_is_looked_at_alone   Loom  "loom_rank" "who_breaks_the_order_is_refused";

    // Rules 5, 6: what a gather flushes, when, and what it hands on.
    gather_without_flush           Kit   "flushes" "f4_who_was_not_told_catches_up_before_a_user_runs";
    given_back_before_flush        Kit   "invariants_pages" "f1_f8_lesson_51_a_full_batch_is_flushed_before_anything_is_freed";
    taken_without_flush            Kit   "flushes" "f4_who_was_not_told_catches_up_before_a_user_runs";
    table_walkers_untold           Kit   "flushes" "rounds_and_interrupts_of_each_verb";
    tables_are_not_named           Kit   "table_rules" "f3_each_verb_flushes_once_and_only_what_lost_rights";
    tables_without_grace           Loom  "loom_table" "walk_and_free";
    tables_without_grace           Kit   "table_rules" "f2_a_table_outlives_the_readers_that_may_be_in_it";
    tables_without_grace           Loom  "loom_object" "exit_and_truncate";
    tables_without_grace           Loom  "loom_hints" "enter_and_reuse";
    exchange_without_flush         Kit   "flushes" "lesson_45_fork_flushes_the_parent_once_and_copies_flush_one_page";
    dirty_is_not_handed_on         Loom  "loom_dirty" "unmap";
    table_forgets_notes_of_runs    Kit   "table_runs" "what_one_entry_notes_counts_for_each_page";
    protect_without_flush          Kit   "invariants_pages" "f3_lesson_49_fewer_rights_are_in_force_everywhere_when_protect_returns";
    protect_without_flush          Schedules "schedules" "whole_verbs_keep_their_promises_whatever_the_schedule";
    fork_without_flush             Loom  "loom_fault" "cow_and_fork";
    fork_without_flush             Kit   "invariants_pages" "e3_after_fork_no_cpu_can_write_to_what_is_shared";
    table_protect_without_flush    Kit   "table_rules" "f3_each_verb_flushes_once_and_only_what_lost_rights";
    taken_back_without_flush       Kit   "table_rules" "f3_each_verb_flushes_once_and_only_what_lost_rights";
    harvest_without_flush          Loom  "loom_dirty" "harvest";

    // A CPU that waits lets flushes in, whatever it waits for.
    lock_waits_deaf                Kit   "crossing" "f6_lesson_54_who_waits_for_a_lock_lets_flushes_in";
    lock_waits_deaf                Kit   "threads" "f6_lesson_54_e13_crossing_shootdowns_and_exits";
    mark_waits_deaf                Kit   "crossing" "f6_lesson_54_who_waits_for_readers_of_an_area_lets_flushes_in";
    grace_waits_deaf               Kit   "crossing" "f6_lesson_54_who_waits_for_a_grace_period_lets_flushes_in";
    busy_waits_deaf                Kit   "crossing" "f6_lesson_54_who_waits_for_a_busy_area_lets_flushes_in";
    behind_fork_waits_deaf         Kit   "crossing" "f6_lesson_54_who_waits_behind_a_fork_lets_flushes_in";
    fork_waits_deaf                Kit   "crossing" "f6_lesson_54_a_fork_that_waits_for_who_is_busy_lets_flushes_in";
    end_waits_deaf                 Kit   "crossing" "f6_lesson_54_an_unmap_that_waits_for_who_is_busy_beside_it_lets_flushes_in";
    map_waits_deaf                 Kit   "crossing" "f6_lesson_54_a_map_that_waits_for_who_is_busy_beside_it_lets_flushes_in";
    move_waits_deaf                Kit   "crossing" "f6_lesson_54_a_move_that_waits_for_who_is_busy_there_lets_flushes_in";
    fault_waits_deaf               Kit   "crossing" "f6_lesson_54_a_fault_that_waits_for_who_is_busy_lets_flushes_in";

    // Rules 15, 16: what CPUs remember, and what they owe.
    forgotten_too_early          Loom "loom_hints" "remember_and_drain";
    table_before_it_forgets        Loom  "loom_hints" "enter_and_reuse";
    hint_is_believed               Loom  "loom_hints" "enter_and_reuse";
    table_of_any_space             Loom  "loom_hints" "copy_and_reuse";
    hints_outlive_slabs          Kit "hints" "what_was_drained_is_not_followed";
    batch_outlives_space         Kit "hints" "counts_do_not_outlive_their_space";
    batch_outlives_space         Loom "loom_counts" "fault_and_end";
    batch_is_paid_in_two_steps   Loom "loom_counts" "fault_and_count";
    batch_is_paid_in_two_steps   Loom "loom_counts" "fault_and_end";

    // Rule 7: what machines remember that hold on to invalid entries.
    map_is_not_flushed             Kit   "table_rules" "f7_lesson_55_a_map_is_flushed_where_invalid_entries_are_remembered";
    new_table_is_not_flushed       Kit   "flushes" "first_touches_flush_at_most_what_was_remembered_here";
    spurious_without_flush         Kit   "invariants_pages" "d1_d2_lessons_62_63_a_fault_on_a_good_entry_is_resolved_and_disturbs_nobody";
    spurious_keeps_tables          Kit   "table_rules" "f7_a_map_that_made_a_table_is_flushed_with_it";
    kernel_map_is_not_shown        Kit   "kernel_space" "every_space_has_the_kernel_and_every_cpu_forgets_what_is_unmapped";
    kernel_map_keeps_tables        Kit   "kernel_space" "every_space_has_the_kernel_and_every_cpu_forgets_what_is_unmapped";
    first_kernel_map_is_not_shown  Kit   "kernel_space" "the_first_kernel_mapping_is_seen_by_the_cpu_that_makes_it";

    // Rule 11: hardware writes too; blocks and runs.
    taken_by_store                 Loom  "loom_dirty" "unmap";
    replaced_by_store              Loom  "loom_dirty" "protect";
    replaced_by_store              Loom  "loom_dirty" "protect_none";
    block_broken_in_place          Kit   "table_rules" "f7_a_block_is_shattered_by_way_of_an_invalid_entry";
    block_broken_without_flush     Kit   "table_rules" "f7_a_block_is_shattered_by_way_of_an_invalid_entry";
    block_shattered_without_flush  Kit   "table_rules" "a_block_loses_one_page_and_keeps_the_others";
    table_is_filled_once           Loom  "loom_dirty" "shatter";
    run_broken_in_place            Kit   "tables" "scripts_on_tiny_tables_with_runs_that_are_broken_before_they_are_made";
    run_broken_without_flush       Kit   "table_runs" "a_part_that_changes_breaks_its_run_first";
    run_rewritten_without_flush    Kit   "table_runs" "a_run_that_changes_as_a_whole_stays_one";
    run_harvested_without_flush    Kit   "table_runs" "a_run_that_changes_as_a_whole_stays_one";
    broken_run_forgets_notes       Loom  "loom_dirty" "break_run";
    broken_run_forgets_notes       Loom  "loom_dirty" "unmap_part_of_a_run";
    run_is_noted_by_its_first      Loom  "loom_dirty" "unmap_run";
    run_is_noted_by_its_first      Loom  "loom_dirty" "protect_run";

    // Tables come and go.
    dead_is_not_marked             Loom  "loom_table" "map_and_prune";
    dead_is_not_looked_at          Loom  "loom_table" "map_and_prune";
    live_is_looked_at_once         Loom  "loom_table" "map_and_prune";
    linked_without_look            Loom  "loom_table" "link_twice";
    table_is_not_zeroed            Loom  "loom_table" "link_and_walk";
    links_without_release          Loom  "tree_descent" "a6_descent_during_an_insertion_with_rotation";
    links_without_release          Loom  "tree_descent" "a6_descent_during_a_removal_and_reuse_of_the_node";
    links_without_acquire          Loom  "tree_descent" "a6_descent_during_an_insertion_with_rotation";
    links_without_acquire          Loom  "tree_descent" "a6_descent_during_a_removal_and_reuse_of_the_node";

    // Rules 2, 4, 8, and counts.
    marked_is_entered              Loom  "loom_fault" "fault_and_unmap";
    reuse_what_two_have            Kit   "invariants_pages" "e2_e4_lessons_33_34_43_a_chain_of_forks_keeps_everyones_bytes_apart";
    reuse_what_two_have            Loom  "loom_fault" "cow_and_exit";
    reuse_what_two_have            Loom  "loom_fault" "cow_and_last_user";
    locked_by_two                  Loom  "loom_cache" "one_begins_the_transfer";
    failure_wakes_nobody           Loom  "loom_cache" "a_failed_read_is_begun_anew";
    merged_buddy_stays_linked      Kit   "frames" "random_orders_come_back_whole";
    merged_buddy_stays_linked      Loom  "loom_page" "a_frame_has_one_owner";
    cache_knows_no_bound           Kit   "front" "the_last_frame_below_a_bound_is_found_in_whichever_cache_it_is";
    cache_knows_no_bound           Kit   "formats" "pae_roots_lie_below_4_gib";
    low_frame_is_cached            Kit   "front" "caches_leave_low_frames_to_who_needs_them";
    cut_is_forgotten               Kit   "object_tails" "bytes_cut_off_while_the_tail_is_read_stay_gone_when_the_file_grows";
    cut_is_forgotten               Kit   "object_tails" "a_write_behind_a_tail_that_is_read_leaves_zeros_between";
    cut_is_forgotten               Kit   "object_tails" "random_sizes_while_pages_are_read_show_no_old_bytes";
    zero_page_is_made_twice        Loom  "loom_page" "the_zero_page_is_one";
    zero_page_is_writable          Kit   "invariants_pages" "e8_the_zero_page_is_not_counted_written_or_freed";
    second_slab_is_lost            Loom  "loom_pool" "a_node_has_one_owner";

    // Instruction caches.
    hidden_code_is_published       Kit   "code" "rights_that_go_and_come_back_make_code_visible_again";
    store_publishes_hidden_code    Kit   "code" "a_store_does_not_publish_code_that_nobody_made_visible";
    store_leaves_code_clean        Kit   "code" "a_fork_does_not_publish_code_that_nobody_made_visible";
    load_leaves_code_clean         Kit   "code" "a_load_that_hands_out_stores_forgets_that_code_was_shown";
    fork_publishes_hidden_code     Kit   "code" "a_fork_does_not_publish_code_that_nobody_made_visible";
    protect_publishes_hidden_code  Kit   "code" "a_frame_that_held_other_code_is_made_visible_in_its_next_life";
    protect_leaves_code_clean      Kit   "code" "code_that_becomes_data_and_stays_writable_is_made_visible_again";
    write_leaves_code_clean        Kit   "code" "rights_that_go_and_come_back_make_code_visible_again";
    write_leaves_code_fresh        Loom  "loom_code" "write_and_show";
    fresh_after_the_show           Loom  "loom_code" "write_and_show";
    two_show_code_at_once          Loom  "loom_code" "write_and_two_who_show";
    shown_is_looked_at_first       Loom  "loom_code" "copy_and_show";
    code_is_not_shown              Kit   "code" "what_is_written_to_code_that_runs_is_fetched";
    running_code_is_not_shown      Kit   "code" "what_is_written_to_code_that_runs_is_fetched";
    user_copy_is_not_shown         Kit   "code" "what_is_written_to_code_that_runs_is_fetched";
    kernel_code_is_not_shown       Kit   "kernel_space" "kernel_code_is_made_visible_when_it_is_mapped";
    zero_page_is_not_shown         Kit   "code" "random_scripts_never_fetch_old_bytes";

    // Sequences: barriers and operations, in the order of the manuals.
    x86_pge_stays_toggled          Own   "mm-x86_64" "tlb::tests::kernel_entries_need_the_global_flush";
    x86_tables_page_by_page        Own   "mm-x86_64" "tlb::tests::tables_and_many_pages_drop_the_whole_tag";
    x86_stale_pcid_is_kept         Own   "mm-x86_64" "tlb::tests::a_switch_keeps_what_is_true_of_its_own_pcid";
    x86_global_entries_stay        Own   "mm-x86_64" "tlb::tests::kernel_entries_need_the_global_flush";
    aarch64_flush_before_stores    Own   "mm-arm" "aarch64::tlb::tests::a_flush_is_between_barriers";
    aarch64_flush_is_not_waited_for Own   "mm-arm" "aarch64::tlb::tests::a_flush_is_between_barriers";
    aarch64_flush_without_isb      Own   "mm-arm" "aarch64::tlb::tests::a_flush_is_between_barriers";
    aarch64_tables_stay            Own   "mm-arm" "aarch64::tlb::tests::tables_take_the_walk_with_them";
    aarch64_publish_without_dsb    Own   "mm-arm" "aarch64::tlb::tests::new_entries_wait_for_their_store";
    aarch64_publish_without_isb    Own   "mm-arm" "aarch64::tlb::tests::new_entries_wait_for_their_store";
    aarch64_root_before_its_stores Own   "mm-arm" "aarch64::tlb::tests::a_switch_drops_what_is_not_told_apart";
    aarch64_root_without_isb       Own   "mm-arm" "aarch64::tlb::tests::a_switch_drops_what_is_not_told_apart";
    aarch64_shared_tag_stays       Own   "mm-arm" "aarch64::tlb::tests::a_switch_drops_what_is_not_told_apart";
    aarch64_code_is_not_cleaned    Own   "mm-arm" "aarch64::code::tests::lines_are_cleaned_then_dropped";
    aarch64_code_dropped_before_cleaned Own   "mm-arm" "aarch64::code::tests::lines_are_cleaned_then_dropped";
    aarch64_code_is_not_dropped    Own   "mm-arm" "aarch64::code::tests::lines_are_cleaned_then_dropped";
    aarch64_code_is_not_waited_for Own   "mm-arm" "aarch64::code::tests::lines_are_cleaned_then_dropped";
    aarch64_code_without_isb       Own   "mm-arm" "aarch64::code::tests::lines_are_cleaned_then_dropped";
    armv7_flush_before_stores      Own   "mm-arm" "armv7::tlb::tests::a_page_is_dropped_with_its_asid";
    armv7_branches_are_remembered  Own   "mm-arm" "armv7::tlb::tests::a_page_is_dropped_with_its_asid";
    armv7_flush_is_not_waited_for  Own   "mm-arm" "armv7::tlb::tests::a_page_is_dropped_with_its_asid";
    armv7_flush_without_isb        Own   "mm-arm" "armv7::tlb::tests::a_page_is_dropped_with_its_asid";
    armv7_publish_without_dsb      Own   "mm-arm" "armv7::tlb::tests::new_entries_wait_for_their_store";
    armv7_root_before_its_stores   Own   "mm-arm" "armv7::tlb::tests::a_switch_passes_through_the_reserved_asid";
    armv7_root_under_the_old_asid  Own   "mm-arm" "armv7::tlb::tests::a_switch_passes_through_the_reserved_asid";
    armv7_root_without_isb         Own   "mm-arm" "armv7::tlb::tests::a_switch_passes_through_the_reserved_asid";
    armv7_code_is_not_cleaned      Own   "mm-arm" "armv7::tlb::tests::code_is_cleaned_before_it_is_dropped";
    armv7_code_dropped_before_cleaned Own   "mm-arm" "armv7::tlb::tests::code_is_cleaned_before_it_is_dropped";
    armv7_code_is_not_dropped      Own   "mm-arm" "armv7::tlb::tests::code_is_cleaned_before_it_is_dropped";
    armv7_code_is_not_waited_for   Own   "mm-arm" "armv7::tlb::tests::code_is_cleaned_before_it_is_dropped";
    armv7_code_without_isb         Own   "mm-arm" "armv7::tlb::tests::code_is_cleaned_before_it_is_dropped";
    riscv_asks_without_fence       Own   "mm-riscv" "tlb::tests::other_harts_are_asked_after_a_fence";
    riscv_tables_page_by_page      Own   "mm-riscv" "tlb::tests::tables_and_many_pages_drop_the_whole_tag";
    riscv_invalidates_before_stores Own   "mm-riscv" "tlb::tests::few_pages_are_dropped_one_by_one";
    riscv_walks_before_invalidated Own   "mm-riscv" "tlb::tests::few_pages_are_dropped_one_by_one";
    riscv_root_before_its_stores   Own   "mm-riscv" "tlb::tests::a_new_root_is_ordered_before_and_a_used_tag_dropped_after_it_is_loaded";
    riscv_used_tag_is_kept         Own   "mm-riscv" "tlb::tests::a_new_root_is_ordered_before_and_a_used_tag_dropped_after_it_is_loaded";
    riscv_code_before_its_stores   Own   "mm-riscv" "tlb::tests::code_is_shown_to_this_hart_and_to_the_others";
    riscv_code_is_not_shown_here   Own   "mm-riscv" "tlb::tests::code_is_shown_to_this_hart_and_to_the_others";
    riscv_code_is_not_shown_to_others Own   "mm-riscv" "tlb::tests::code_is_shown_to_this_hart_and_to_the_others";
};
