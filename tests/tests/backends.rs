//! Every back end of this host keeps every promise of the hypervisor seam.
//!
//! One test a body of the conformance suite and a back end. What a kind of host is known not to do is listed here,
//! with the reason in the suite; a body that needs it is skipped, and says so in one line.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and what was skipped by printing"
)]

use std::{
    env,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use vmm_core::{
    host::{self, KvmKind},
    hv::{
        Hypervisor,
        conformance::{BODIES, Body, Limit, Setup, Verdict},
    },
    kvm::Kvm,
    soft::Soft,
};

/// What a host of this kind is known not to do.
fn limits(kind: KvmKind) -> &'static [Limit] {
    match kind {
        KvmKind::None | KvmKind::Whole => &[],
        KvmKind::UserMode => &[
            Limit::Cmpxchg16bRing0,
            Limit::InterruptsInService,
            Limit::Paging32,
            Limit::SimdRing0,
            Limit::SoftInterruptRing0,
            Limit::SystemCall,
        ],
    }
}

/// Bodies watch their guests; this is for a back end that a kick does not bring back. No body has two
/// vCPUs meet more than twenty times a round.
fn hung() -> Duration {
    Duration::from_secs(600) + 20 * Duration::from_micros(100) * rounds()
}

/// How often vCPUs meet: `VMM_ROUNDS`, or a few times.
fn rounds() -> u32 {
    env::var("VMM_ROUNDS").map_or(2_000, |rounds| rounds.parse().expect("a number"))
}

/// The body of that name.
fn body(name: &str) -> &'static Body {
    BODIES.iter().find(|body| body.name == name).expect("a body of that name")
}

/// Runs the body of that name on this host's KVM.
fn kvm(name: &str) {
    let kind = host::probe().kvm;
    if kind == KvmKind::None {
        println!("skipped: {name}: no /dev/kvm here");
        return;
    }
    let open = || Kvm::open().expect("/dev/kvm opened for the probe").into();
    report(name, &kind.to_string(), open, limits(kind));
}

/// Runs the body of that name on the software CPU.
fn soft(name: &str) {
    report(name, "the software CPU", || Soft::new().expect("it is built").into(), &[]);
}

fn report(name: &str, place: &str, open: fn() -> Arc<dyn Hypervisor>, limits: &'static [Limit]) {
    match run(body(name), open, limits) {
        Verdict::Passed => println!("{name}: passed on {place}"),
        Verdict::Skipped(reason) => {
            let known = limits.iter().any(|limit| limit.reason() == reason);
            assert!(known, "{name} was skipped for a reason that is not listed: {reason}");
            println!("skipped: {name}: {reason}");
        }
    }
}

fn run(
    body: &'static Body,
    open: fn() -> Arc<dyn Hypervisor>,
    limits: &'static [Limit],
) -> Verdict {
    let (report, verdict) = mpsc::channel();
    thread::spawn(move || {
        let hypervisor = open();
        // The receiver is gone only if the test has given up.
        let _ =
            report.send(body.run(&Setup { hypervisor: &*hypervisor, limits, rounds: rounds() }));
    });
    match verdict.recv_timeout(hung()) {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(failure)) => panic!("{}: {failure}", body.name),
        Err(why) => panic!("{}: {why}", body.name),
    }
}

macro_rules! bodies {
    ($($name:ident)*) => {
        mod on_kvm {
            $(
                #[test]
                fn $name() {
                    super::kvm(stringify!($name));
                }
            )*
        }

        mod on_soft {
            $(
                #[test]
                fn $name() {
                    super::soft(stringify!($name));
                }
            )*
        }

        #[test]
        fn every_body_has_a_test() {
            let bodies: Vec<_> = BODIES.iter().map(|body| body.name).collect();
            assert_eq!(bodies, [$(stringify!($name)),*]);
        }
    };
}

bodies! {
    a_computation_and_its_timer_survive_a_hundred_moves
    a_computation_survives_a_hundred_moves
    a_deadline_ends_run_on_any_thread
    a_doorbell_counts_every_store
    a_doorbell_for_any_store_takes_all_widths
    a_doorbell_is_added_and_removed_once
    a_doorbell_is_removed_by_its_event
    a_doorbell_takes_only_stores_that_match
    a_feature_taken_from_the_model_is_absent
    a_fence_lets_no_load_pass_a_store
    a_guest_can_go_from_real_mode_to_ring_3_and_back
    a_halted_vcpu_is_moved_and_wakes
    a_host_call_ends_run_with_registers_in_place
    a_jump_to_no_ram_is_a_fault_exit
    a_kick_brings_back_a_vcpu_that_was_never_started
    a_level_interrupts_when_unmasked_until_it_is_low
    a_message_to_a_disabled_apic_is_not_delivered
    a_pending_interrupt_is_moved
    a_read_only_slot_takes_no_writes
    a_removed_doorbell_takes_nothing
    a_slot_may_start_inside_its_region
    a_triple_fault_is_a_fault_exit
    accesses_across_the_end_of_ram_are_cut_there
    all_see_stores_of_others_in_one_order
    an_edge_at_a_masked_pic_pin_waits
    an_edge_interrupts_once
    an_interrupt_in_service_yields_only_to_more_urgent_ones
    an_unmapped_slot_goes_to_io_until_it_is_mapped_again
    bad_slots_are_refused
    break_from_a_read_comes_after_the_data
    break_from_a_write_comes_after_the_instruction
    break_from_the_read_of_an_exchange_comes_after_its_write
    break_within_a_string_instruction_loses_nothing
    cmpxchg16b_works_in_ring_0
    code_of_another_vcpu_is_executed_as_written
    cpuid_shows_the_model_and_the_vcpu
    doorbells_at_one_address_do_not_mix
    each_edge_at_the_ioapic_wakes_halt
    each_edge_at_the_pics_wakes_halt
    each_line_event_wakes_halt_if_offered
    each_message_wakes_halt
    each_nmi_by_message_reaches_vector_2
    every_port_and_any_address_outside_ram_reach_io
    every_port_can_be_touched_with_interrupt_controllers
    garbage_ends_in_an_exit_or_can_be_kicked
    halt_with_interrupt_controllers_waits_in_run
    halt_without_interrupt_controllers_ends_run
    kicks_before_run_end_it_at_once_and_once
    locked_accesses_are_atomic_however_they_lie
    mmio_accesses_across_pages_have_every_byte_once
    mmio_loads_of_each_width_are_extended_right
    mmio_stores_of_each_width_arrive_whole
    no_kick_of_a_storm_is_lost_nor_any_access
    no_store_passes_a_load
    one_kick_brings_back_a_spinning_guest
    page_tables_are_marked_without_losing_other_changes
    paging_outside_long_mode_works
    pins_that_do_not_exist_are_refused
    port_accesses_of_each_width_and_form_work
    read_modify_write_on_mmio_is_one_read_then_one_write
    simd_and_floating_point_work_in_ring_0
    software_interrupts_work_in_ring_0
    startup_messages_start_every_vcpu
    stores_are_seen_in_order
    string_input_of_any_length_arrives_in_order
    string_moves_reach_mmio_in_order
    string_output_of_any_length_arrives_in_order
    system_calls_enter_ring_0
    the_apic_timer_wakes_halt_once
    the_apic_timer_wakes_halt_periodically
    the_dirty_log_has_exactly_the_pages_written
    the_pit_wakes_halt_periodically
    the_tsc_deadline_wakes_halt_if_offered
    there_is_no_dirty_log_of_an_unlogged_slot
    vcpus_interrupt_each_other
    without_a_pit_its_ports_go_to_io
}
