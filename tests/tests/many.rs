//! Many machines in one process do not know of each other.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and where it ran by printing"
)]

mod each;
mod this_host;

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
    thread,
};

use vmm_core::{
    Machine, Result,
    boot::Flat,
    bus::BusDevice,
    exit::{CONTINUE, Flow, VcpuExit},
    hv::Hypervisor,
    machine::{Device, Outcome, Slot},
};

/// Reads a word from port 0x80, triples it, adds 1 and writes it to port 0x82; a hundred times,
/// keeping the result in RAM between.
///
/// ```text
///     mov cx, 100
/// 1:  in ax, 0x80
///     mov bx, ax
///     add ax, ax
///     add ax, bx
///     inc ax
///     mov [0x500], ax
///     mov dx, [0x500]
///     mov ax, dx
///     out 0x82, ax
///     loop 1b
///     out 0x84, al
/// ```
const GUEST: &[u8] = &[
    0xb9, 100, 0, 0xe5, 0x80, 0x89, 0xc3, 0x01, 0xc0, 0x01, 0xd8, 0x40, 0xa3, 0x00, 0x05, 0x8b,
    0x16, 0x00, 0x05, 0x89, 0xd0, 0xe7, 0x82, 0xe2, 0xea, 0xe6, 0x84,
];

/// Gives numbers and checks the answers.
struct Examiner {
    question: Mutex<u16>,
}

impl BusDevice for Examiner {
    fn read(&self, _: u64, data: &mut [u8]) -> Flow {
        data.copy_from_slice(&self.question.lock().unwrap().to_le_bytes());
        CONTINUE
    }

    fn write(&self, offset: u64, data: &[u8]) -> Flow {
        if offset == 4 {
            return ControlFlow::Break(VcpuExit::PowerOff(0));
        }
        let mut question = self.question.lock().unwrap();
        assert_eq!(data, question.wrapping_mul(3).wrapping_add(1).to_le_bytes());
        *question = question.wrapping_add(17);
        CONTINUE
    }
}

impl Device for Examiner {
    fn name(&self) -> &str {
        "examiner"
    }

    fn plug(self: Box<Self>, slot: &mut Slot<'_>) -> Result<()> {
        slot.ports(0x80, 8, Arc::new(*self))
    }
}

#[test]
fn sixty_four_machines_on_eight_threads_each_get_their_own_answers() {
    let test = "sixty_four_machines_on_eight_threads_each_get_their_own_answers";
    each::back_end(test).iter().for_each(all_get_their_own_answers);
}

fn all_get_their_own_answers(hypervisor: &Arc<dyn Hypervisor>) {
    let machines: Vec<_> = (0..64u16)
        .map(|n| {
            Machine::builder()
                .hypervisor(Arc::clone(hypervisor))
                .memory(1 << 20)
                .interrupts(None)
                .boot(Flat::real_mode(GUEST))
                .device(Examiner { question: Mutex::new(n * 1_000) })
                .build()
                .unwrap()
        })
        .collect();
    thread::scope(|scope| {
        for eight in machines.chunks(8) {
            scope.spawn(move || {
                for machine in eight {
                    assert_eq!(machine.run().unwrap(), Outcome::PowerOff(0));
                }
            });
        }
    });
}
