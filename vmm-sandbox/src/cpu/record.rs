//! The processor as a record that outlives its back end: what the program has of it in ring 3, and
//! nothing of how it got out of there.

use serde::{Deserialize, Serialize};
use vmm_core::{
    Error, Result,
    arch::{CpuModel, Regs, Segment, msr, rflags},
    persist::Kind,
};

use super::{Cpu, Image, PROGRAM_FLAGS, stub};
use crate::space;

/// A processor, as a program has it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Where the program goes on; `None` if it waits to be called.
    regs: Option<Regs>,
    /// DS, ES, FS, GS, and the bases of the last two.
    selectors: [u16; 4],
    bases: [u64; 2],
    /// As XSAVE has them, in the standard format.
    vectors: Vec<u8>,
    tsc: u64,
}

pub(crate) const RECORD: Kind = Kind { name: "cpu", version: 1 };

/// The bytes of SYSCALL.
const SYSCALL_LEN: u64 = 2;
/// RFLAGS that a program cannot change: IOPL, NT, RF, VM, VIF, VIP.
const NOT_ITS_OWN: u64 = 0x1b_7000;
/// Where XSAVE says which components it holds, and the standard format (Intel SDM volume 1, 13.4).
const XSTATE_BV: usize = 512;
/// The bytes of XSAVE state that KVM always has.
const LEGACY_AREA: usize = 4096;

impl Image {
    /// What another sandbox goes on from. A program that is `ready` stands nowhere.
    ///
    /// # Errors
    /// `WrongState` if the program stands in the middle of an exception.
    pub(crate) fn record(&self, memory: &space::Image, ready: bool) -> Result<Record> {
        let system = &self.state.system;
        let regs = if ready { None } else { Some(self.position(memory)?) };
        let tsc = self.state.msrs.iter().find(|msr| msr.index == msr::TSC);
        Ok(Record {
            regs,
            selectors: [system.ds, system.es, system.fs, system.gs].map(|seg| seg.selector),
            bases: [system.fs.base, system.gs.base],
            vectors: self.state.xsave.clone(),
            tsc: tsc.map_or(0, |tsc| tsc.value),
        })
    }

    /// Where the program itself stands: on its way to its host or back, that is the system call.
    fn position(&self, memory: &space::Image) -> Result<Regs> {
        let (regs, at) = (&self.state.regs, &self.stub.at);
        let events = &self.state.events;
        let to = |rip, rflags, rsp| Ok(Regs { rip, rflags, rsp, ..*regs });
        let (behind, again) = (regs.rcx, regs.rcx.wrapping_sub(SYSCALL_LEN));
        let frame = self.stub.frame_of(memory, regs.rsp);
        let (asking, answered) = (at.syscall_ring3_trap, at.syscall_ring3_done);
        match (regs.rip, self.state.system.cs.selector & 3, frame) {
            _ if events.exception.is_some() || events.interrupt.is_some() => Err(in_between()),
            (rip, 3, _) if !stub::has_code(rip) => Ok(*regs),
            (rip, 3, _) if rip == at.syscall_ring3 || rip == asking => {
                to(again, regs.rflags, regs.rsp)
            }
            (rip, 3, _) if rip == answered => to(behind, regs.rflags, regs.rsp),
            (rip, 0, _) if rip == at.enter || rip == at.syscall_ring0_done => {
                to(behind, regs.r11, regs.rsp)
            }
            (rip, 0, _) if rip == at.syscall_ring0 => to(again, regs.r11, regs.rsp),
            (rip, 0, Some([to_rip, _, flags, rsp, _]))
                if rip == at.breakpoint_done && to_rip == answered =>
            {
                to(behind, flags, rsp)
            }
            (rip, 0, Some([to_rip, _, flags, rsp, _]))
                if rip == at.breakpoint && to_rip == asking =>
            {
                to(again, flags, rsp)
            }
            _ => Err(in_between()),
        }
    }
}

fn in_between() -> Error {
    Error::wrong_state(
        "saving: the program stands in the middle of an exception; interrupt it anew",
    )
}

impl Record {
    /// The state components that the program has used and a processor like this does not have, or
    /// has at another place.
    pub(crate) fn components_lost(&self, from: &CpuModel, to: &CpuModel, offered: u64) -> u64 {
        let used = (2..63).filter(|number| self.uses(from, *number));
        let lost = used.filter(|number| {
            let same = from.state_component(*number) == to.state_component(*number);
            offered >> number & 1 == 0 || !same
        });
        lost.fold(0, |lost, number| lost | 1 << number)
    }

    /// Whether a state component holds something else than at the start: zeros.
    fn uses(&self, model: &CpuModel, number: u32) -> bool {
        if self.held() >> number & 1 == 0 {
            return false;
        }
        let (size, offset) = model.state_component(number);
        let (start, end) = (offset as usize, (u64::from(offset) + u64::from(size)) as usize);
        // What lies nowhere that is known may be anything.
        let bytes = self.vectors.get(start..end).filter(|bytes| !bytes.is_empty());
        bytes.is_none_or(|bytes| bytes.iter().any(|byte| *byte != 0))
    }

    fn held(&self) -> u64 {
        let bytes = self.vectors.get(XSTATE_BV..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// The vector registers without the components that are not offered, which hold nothing.
    fn vectors(&self, offered: u64) -> Vec<u8> {
        let mut vectors = self.vectors.clone();
        vectors.resize(vectors.len().max(LEGACY_AREA), 0);
        let held = self.held() & (offered | 3);
        let places = vectors.iter_mut().skip(XSTATE_BV).zip(held.to_le_bytes());
        places.for_each(|(to, from)| *to = from);
        vectors
    }
}

impl Cpu {
    /// Goes on from a record, right after it was made. The registers that are `offered` here are the
    /// state components that programs can use, whatever XCR0 is: where SYSCALL does not leave ring 3,
    /// no XCR0 of ours is in force there.
    ///
    /// # Errors
    /// `Incompatible` if the back end does not take it.
    pub(crate) fn resume(&mut self, record: &Record, offered: u64) -> Result<()> {
        let mut state = self.vcpu.state()?;
        let system = &mut state.system;
        if let Some(regs) = record.regs {
            let rflags = regs.rflags & !NOT_ITS_OWN | PROGRAM_FLAGS;
            state.regs = Regs { rflags: rflags & !rflags::TF, ..regs };
            (system.cs, system.ss) = stub::ring3();
        }
        let [ds, es, fs, gs] = record.selectors.map(data_segment);
        let [fs_base, gs_base] = record.bases;
        (system.ds, system.es) = (ds, es);
        (system.fs, system.gs) = (Segment { base: fs_base, ..fs }, Segment { base: gs_base, ..gs });
        state.xsave = record.vectors(offered);
        state.msrs.retain(|msr| super::KEPT_MSRS.contains(&msr.index));
        for msr in &mut state.msrs {
            if msr.index == msr::TSC {
                msr.value = record.tsc;
            }
        }
        state.tsc_khz = None;
        self.vcpu.set_state(&state).map_err(|error| {
            Error::incompatible(format!("the processor's state is refused: {error}"))
        })
    }
}

/// What a program can have in a data segment register: nothing, or its data.
fn data_segment(selector: u16) -> Segment {
    match selector & !3 {
        0 => Segment { selector, unusable: true, ..Segment::default() },
        _ => stub::ring3().1,
    }
}
