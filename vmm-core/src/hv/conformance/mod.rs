//! What every back end is tested with: bodies that take a hypervisor and exercise it with guest
//! code.
//!
//! Each [`Body`] promises one thing and is named by it. A test of a back end opens its hypervisor,
//! says in a [`Setup`] what the host is known not to do, and runs [`BODIES`]; a body that needs one
//! of those things is skipped with the reason, never silently. A body returns its [`Failure`]; it
//! does not print, panic or hang, a watchdog sees to that.
//!
//! The guests are small programs in `guests/*.S`, assembled by the build script when the feature
//! `conformance` is on.

/// Ends a body with a [`Failure`] unless the condition holds.
macro_rules! ensure {
    ($cond:expr, $($message:tt)+) => {
        if !$cond {
            return Err($crate::hv::conformance::Failure::from(format!($($message)+)));
        }
    };
}

/// Ends a body with a [`Failure`] that shows both sides unless they are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($message:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                let what = format!($($message)+);
                ensure!(*left == *right, "{what}: {left:x?}, not {right:x?}");
            }
        }
    };
}

/// The guest program `guests/NAME.S`, to be placed and entered at [`guest::CODE`].
macro_rules! program {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/conformance/", $name, ".bin")).as_slice()
    };
}

mod cpuid;
mod deadline;
mod dirty;
mod doorbells;
mod fault;
mod flow;
mod guest;
mod halt;
mod host_call;
mod instruction;
mod interrupts;
mod kick;
mod mmio;
mod mode;
mod modify;
mod moves;
mod order;
mod outside;
mod pins;
mod port;
mod random;
mod reach;
mod relocation;
mod slot;
mod smp;
mod storm;
mod string;
mod timers;

use std::fmt;

use super::Hypervisor;
use crate::error::Error;

/// What a body runs on.
pub struct Setup<'a> {
    /// The hypervisor under test.
    pub hypervisor: &'a dyn Hypervisor,
    /// What it cannot do on this host.
    pub limits: &'a [Limit],
    /// How often vCPUs meet in what is about the order of their loads and stores. A thousand
    /// takes milliseconds where both have a processor.
    pub rounds: u32,
}

/// Something a host is known not to do. A body that needs it is skipped there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// CMPXCHG16B in ring 0.
    Cmpxchg16bRing0,
    /// Interrupt controllers.
    Interrupts,
    /// Interrupts in service, which hold back others until the guest acknowledges them.
    InterruptsInService,
    /// Paging outside long mode: 32-bit and PAE.
    Paging32,
    /// More than one vCPU.
    SeveralVcpus,
    /// x87, MMX, SSE and AVX arithmetic and XSAVE in ring 0.
    SimdRing0,
    /// INT3 and INT n in ring 0.
    SoftInterruptRing0,
    /// SYSCALL from ring 3 into ring 0, and INT n from ring 3.
    SystemCall,
}

impl Limit {
    /// The reason in words, as it is given for a skipped body.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Cmpxchg16bRing0 => "CMPXCHG16B does not run in ring 0 on this host",
            Self::Interrupts => "not built: interrupt controllers",
            Self::InterruptsInService => {
                "interrupts are acknowledged as they are delivered on this host"
            }
            Self::Paging32 => "32-bit and PAE paging do not run on this host",
            Self::SeveralVcpus => "not built: more than one vCPU",
            Self::SimdRing0 => "x87, SSE and AVX do not run in ring 0 on this host",
            Self::SoftInterruptRing0 => "INT3 and INT n do not run in ring 0 on this host",
            Self::SystemCall => "SYSCALL and INT n do not enter ring 0 on this host",
        }
    }
}

/// Why a body did not pass, in words.
#[derive(Clone, Debug)]
pub struct Failure(String);

/// How a body ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The promise holds.
    Passed,
    /// This host cannot run it; the reason of the [`Limit`].
    Skipped(&'static str),
}

/// A promise of the hypervisor seam, and the code that tests it.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    /// The promise; a valid name for a test function.
    pub name: &'static str,
    /// What a host must be able to do for it.
    pub needs: &'static [Limit],
    run: fn(&Setup<'_>) -> Result<(), Failure>,
}

impl Body {
    /// Tests the promise, in a VM of its own.
    ///
    /// # Errors
    /// What was promised and not kept, or that the hypervisor gave an error.
    pub fn run(&self, setup: &Setup<'_>) -> Result<Verdict, Failure> {
        if let Some(limit) = self.needs.iter().find(|need| setup.limits.contains(need)) {
            return Ok(Verdict::Skipped(limit.reason()));
        }
        (self.run)(setup).map(|()| Verdict::Passed)
    }
}

/// Makes [`BODIES`] of functions: the name of a body is that of its function.
macro_rules! bodies {
    ($($module:ident::$name:ident $(needs $($limit:ident)+)?;)*) => {
        /// All bodies, in alphabetical order of their names.
        pub const BODIES: &[Body] = &[$(Body {
            name: stringify!($name),
            needs: &[$($(Limit::$limit),+)?],
            run: $module::$name,
        }),*];
    };
}

bodies! {
    moves::a_computation_and_its_timer_survive_a_hundred_moves needs Interrupts;
    moves::a_computation_survives_a_hundred_moves;
    deadline::a_deadline_ends_run_on_any_thread;
    doorbells::a_doorbell_counts_every_store;
    doorbells::a_doorbell_for_any_store_takes_all_widths;
    doorbells::a_doorbell_is_added_and_removed_once;
    doorbells::a_doorbell_is_removed_by_its_event;
    doorbells::a_doorbell_takes_only_stores_that_match;
    cpuid::a_feature_taken_from_the_model_is_absent;
    order::a_fence_lets_no_load_pass_a_store needs SeveralVcpus;
    mode::a_guest_can_go_from_real_mode_to_ring_3_and_back;
    moves::a_halted_vcpu_is_moved_and_wakes needs Interrupts;
    host_call::a_host_call_ends_run_with_registers_in_place;
    fault::a_jump_to_no_ram_is_a_fault_exit;
    smp::a_kick_brings_back_a_vcpu_that_was_never_started needs SeveralVcpus;
    pins::a_level_interrupts_when_unmasked_until_it_is_low needs Interrupts;
    interrupts::a_message_to_a_disabled_apic_is_not_delivered needs Interrupts;
    moves::a_pending_interrupt_is_moved needs Interrupts;
    slot::a_read_only_slot_takes_no_writes;
    doorbells::a_removed_doorbell_takes_nothing;
    slot::a_slot_may_start_inside_its_region;
    fault::a_triple_fault_is_a_fault_exit;
    mmio::accesses_across_the_end_of_ram_are_cut_there;
    order::all_see_stores_of_others_in_one_order needs SeveralVcpus;
    pins::an_edge_at_a_masked_pic_pin_waits needs Interrupts;
    pins::an_edge_interrupts_once needs Interrupts;
    pins::an_interrupt_in_service_yields_only_to_more_urgent_ones needs Interrupts InterruptsInService;
    slot::an_unmapped_slot_goes_to_io_until_it_is_mapped_again;
    slot::bad_slots_are_refused;
    flow::break_from_a_read_comes_after_the_data;
    flow::break_from_a_write_comes_after_the_instruction;
    flow::break_from_the_read_of_an_exchange_comes_after_its_write;
    flow::break_within_a_string_instruction_loses_nothing;
    instruction::cmpxchg16b_works_in_ring_0 needs Cmpxchg16bRing0;
    order::code_of_another_vcpu_is_executed_as_written needs SeveralVcpus;
    cpuid::cpuid_shows_the_model_and_the_vcpu;
    doorbells::doorbells_at_one_address_do_not_mix;
    interrupts::each_edge_at_the_ioapic_wakes_halt needs Interrupts;
    interrupts::each_edge_at_the_pics_wakes_halt needs Interrupts;
    interrupts::each_line_event_wakes_halt_if_offered needs Interrupts;
    interrupts::each_message_wakes_halt needs Interrupts;
    interrupts::each_nmi_by_message_reaches_vector_2 needs Interrupts;
    reach::every_port_and_any_address_outside_ram_reach_io;
    reach::every_port_can_be_touched_with_interrupt_controllers needs Interrupts;
    fault::garbage_ends_in_an_exit_or_can_be_kicked;
    interrupts::halt_with_interrupt_controllers_waits_in_run needs Interrupts;
    halt::halt_without_interrupt_controllers_ends_run;
    kick::kicks_before_run_end_it_at_once_and_once;
    order::locked_accesses_are_atomic_however_they_lie needs SeveralVcpus;
    mmio::mmio_accesses_across_pages_have_every_byte_once;
    mmio::mmio_loads_of_each_width_are_extended_right;
    mmio::mmio_stores_of_each_width_arrive_whole;
    storm::no_kick_of_a_storm_is_lost_nor_any_access;
    order::no_store_passes_a_load needs SeveralVcpus;
    kick::one_kick_brings_back_a_spinning_guest;
    order::page_tables_are_marked_without_losing_other_changes needs SeveralVcpus;
    mode::paging_outside_long_mode_works needs Paging32;
    interrupts::pins_that_do_not_exist_are_refused needs Interrupts;
    port::port_accesses_of_each_width_and_form_work;
    modify::read_modify_write_on_mmio_is_one_read_then_one_write;
    instruction::simd_and_floating_point_work_in_ring_0 needs SimdRing0;
    instruction::software_interrupts_work_in_ring_0 needs SoftInterruptRing0;
    smp::startup_messages_start_every_vcpu needs Interrupts SeveralVcpus;
    order::stores_are_seen_in_order needs SeveralVcpus;
    string::string_input_of_any_length_arrives_in_order;
    mmio::string_moves_reach_mmio_in_order;
    string::string_output_of_any_length_arrives_in_order;
    instruction::system_calls_enter_ring_0 needs SystemCall;
    timers::the_apic_timer_wakes_halt_once needs Interrupts;
    timers::the_apic_timer_wakes_halt_periodically needs Interrupts;
    dirty::the_dirty_log_has_exactly_the_pages_written;
    timers::the_pit_wakes_halt_periodically needs Interrupts;
    timers::the_tsc_deadline_wakes_halt_if_offered needs Interrupts;
    dirty::there_is_no_dirty_log_of_an_unlogged_slot;
    smp::vcpus_interrupt_each_other needs Interrupts SeveralVcpus;
    timers::without_a_pit_its_ports_go_to_io needs Interrupts;
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(format!("the back end gave an error: {error}"))
    }
}

impl From<String> for Failure {
    fn from(what: String) -> Self {
        Self(what)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl fmt::Debug for Setup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Setup");
        shown.field("hypervisor", &self.hypervisor.name()).field("limits", &self.limits).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bodies_are_in_alphabetical_order() {
        assert!(BODIES.is_sorted_by(|a, b| a.name < b.name));
    }
}
