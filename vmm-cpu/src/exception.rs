//! Exceptions, and the way to their handlers (Intel SDM 3-6.12 to 3-6.14).

use crate::{
    core::{Core, World},
    flags::{AC, IF, NT, RF, TF},
    op::Stop,
    paging::is_canonical,
    regs::RSP,
    segment::{error_code, is_null},
    state::{Segment, rights},
    system::{CS, DR7_GD, SS},
    tlb::View,
};

/// The vectors of the exceptions that instructions raise (Intel SDM 3, table 6-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Vector {
    Divide = 0,
    Debug = 1,
    Bounds = 5,
    InvalidOpcode = 6,
    DeviceNotAvailable = 7,
    DoubleFault = 8,
    InvalidTss = 10,
    SegmentNotPresent = 11,
    Stack = 12,
    GeneralProtection = 13,
    PageFault = 14,
    FloatingPoint = 16,
    Alignment = 17,
    Simd = 19,
}

impl Vector {
    const ALL: [Self; 14] = [
        Self::Divide,
        Self::Debug,
        Self::Bounds,
        Self::InvalidOpcode,
        Self::DeviceNotAvailable,
        Self::DoubleFault,
        Self::InvalidTss,
        Self::SegmentNotPresent,
        Self::Stack,
        Self::GeneralProtection,
        Self::PageFault,
        Self::FloatingPoint,
        Self::Alignment,
        Self::Simd,
    ];

    /// The exception of this number, if instructions raise it.
    pub(crate) fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|vector| *vector as u8 == number)
    }
}

/// An exception to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) vector: Vector,
    pub(crate) code: Option<u32>,
}

impl Exception {
    /// An address that is not canonical: #SS(0) if it is the stack's, else #GP(0). Which of them
    /// is seen to where the operation is known.
    pub(crate) const NOT_CANONICAL: Self =
        Self::with_code(Vector::GeneralProtection, NOT_CANONICAL);

    pub(crate) const fn new(vector: Vector) -> Self {
        Self { vector, code: None }
    }

    pub(crate) const fn with_code(vector: Vector, code: u32) -> Self {
        Self { vector, code: Some(code) }
    }
}

/// No error code has this bit.
const NOT_CANONICAL: u32 = 1 << 31;

impl Core {
    /// Puts an exception up for delivery.
    #[cold]
    pub(crate) fn raise(&mut self, exception: Exception) -> Stop {
        self.fault = Some(exception);
        Stop::Fault
    }

    /// #GP with this code.
    #[cold]
    pub(crate) fn general_protection(&mut self, code: u32) -> Stop {
        self.raise(Exception::with_code(Vector::GeneralProtection, code))
    }

    /// The run ends here, by something that is not built.
    #[cold]
    pub(crate) fn refuse(&mut self, what: &'static str) -> Stop {
        self.refused = Some(what);
        Stop::Refuse
    }

    /// #UD.
    #[cold]
    pub(crate) fn invalid_opcode(&mut self) -> Stop {
        self.raise(Exception::new(Vector::InvalidOpcode))
    }
}

/// What is transferred to a handler.
struct Event {
    vector: u8,
    code: Option<u32>,
    /// By an INT n, INT3 or INTO: the gate's DPL counts, and errors are not "external".
    software: bool,
    /// RFLAGS as the handler finds them on its stack.
    flags: u64,
}

/// A gate of the interrupt descriptor table (Intel SDM 3, figure 6-8).
struct Gate {
    selector: u16,
    offset: u64,
    /// Which stack of the TSS's interrupt stack table, or 0.
    ist: u64,
    /// IF is cleared.
    masks: bool,
    /// The size in bytes of what is pushed.
    width: u64,
}

/// A stack that a frame is pushed onto.
pub(crate) struct Target {
    /// `None` in long mode.
    pub(crate) segment: Option<Segment>,
    pub(crate) pointer: u64,
}

impl Target {
    /// The pointer so many bytes below another one.
    fn below(&self, pointer: u64, bytes: u64) -> u64 {
        let mask = match self.segment {
            None => u64::MAX,
            Some(segment) if segment.is(rights::BIG) => u32::MAX.into(),
            Some(_) => 0xffff,
        };
        pointer.wrapping_sub(bytes) & mask
    }

    fn error_code(&self) -> u32 {
        self.segment.map_or(0, |segment| error_code(segment.selector))
    }
}

/// In an error code: it names a descriptor of the IDT.
const IN_IDT: u32 = 1 << 1;
/// In an error code: something other than the instruction was to blame.
const EXTERNAL: u32 = 1 << 0;

/// Where the 64-bit TSS has RSP0 and IST1 (Intel SDM 3, figure 7-11).
const TSS_RSP0: u64 = 4;
const TSS_IST1: u64 = 36;
/// Types of the gates there are; a gate of 16 bits has 8 less.
const TASK_GATE: u64 = 5;
const INTERRUPT_GATE: u64 = 14;
const TRAP_GATE: u64 = 15;

impl Exception {
    /// What it is, now that it is known whether the stack's address was meant.
    fn resolved(self, stack: bool) -> Self {
        match self {
            Self::NOT_CANONICAL if stack => Self::with_code(Vector::Stack, 0),
            Self::NOT_CANONICAL => Self::with_code(Vector::GeneralProtection, 0),
            other => other,
        }
    }

    /// What becomes of it when `next` comes up in its delivery; `None`: a triple fault (Intel SDM
    /// 3, table 6-5).
    fn with(self, next: Self) -> Option<Self> {
        let contributes = |vector| {
            use Vector::{Divide, GeneralProtection, InvalidTss, SegmentNotPresent, Stack};
            matches!(vector, Divide | InvalidTss | SegmentNotPresent | Stack | GeneralProtection)
        };
        let double = match self.vector {
            Vector::DoubleFault => return None,
            Vector::PageFault => contributes(next.vector) || next.vector == Vector::PageFault,
            first => contributes(first) && contributes(next.vector),
        };
        Some(if double { Self::with_code(Vector::DoubleFault, 0) } else { next })
    }

    fn event(self, flags: u64) -> Event {
        // Faults are resumed: an instruction breakpoint must not strike twice (Intel SDM 3-17.3.1).
        let flags = if self.vector == Vector::Debug { flags } else { flags | RF };
        Event { vector: self.vector as u8, code: self.code, software: false, flags }
    }
}

impl Core {
    /// Delivers `fault`; `stack`: of an instruction whose memory operand is the stack's. False if
    /// that ends in a triple fault.
    pub(crate) fn deliver(&mut self, stack: bool, world: &World<'_>) -> bool {
        let mut fault = self.fault.take().map(|fault| fault.resolved(stack));
        // The tables and stacks of handlers may be anywhere.
        self.careful = true;
        while let Some(exception) = fault {
            if exception.vector == Vector::PageFault {
                self.system.cr2 = self.fault_address;
            }
            if self.transfer(&exception.event(self.rflags()), world).is_ok() {
                break;
            }
            // Nothing to be delivered: it was refused.
            let Some(next) = self.fault.take() else { break };
            fault = exception.with(next);
            if fault.is_none() {
                self.careful = false;
                return false;
            }
        }
        self.careful = false;
        true
    }

    /// INT n and INT3: goes to the handler of `vector` with the next instruction to come back to,
    /// in which RIP is already.
    pub(crate) fn interrupt(&mut self, vector: u8, world: &World<'_>) -> Result<(), Stop> {
        let event = Event { vector, code: None, software: true, flags: self.rflags() };
        self.transfer(&event, world)
    }

    /// Takes an interrupt or NMI from outside; false if that ends in a triple fault.
    pub(crate) fn deliver_external(&mut self, vector: u8, world: &World<'_>) -> bool {
        self.careful = true;
        let event = Event { vector, code: None, software: false, flags: self.rflags() };
        let done = self.transfer(&event, world);
        self.careful = false;
        done.is_ok() || self.deliver(false, world)
    }

    /// INT1: as an exception that is no fault.
    pub(crate) fn debug_trap(&mut self, world: &World<'_>) -> Result<(), Stop> {
        self.transfer(&Exception::new(Vector::Debug).event(self.rflags()), world)
    }

    /// Enters the handler of an event, whole or not at all.
    fn transfer(&mut self, event: &Event, world: &World<'_>) -> Result<(), Stop> {
        let done = self.enter_handler(event, world);
        if done.is_ok() && event.vector == Vector::Debug as u8 && !event.software {
            // Or the handler could not look at the registers.
            self.system.dr7 &= !DR7_GD;
        }
        // What was changed for the accesses to the new stack.
        self.refresh_mode();
        if done.is_err() {
            self.fault = self.fault.map(|fault| fault.resolved(false));
        }
        if !event.software
            && let Some(Exception { vector, code: Some(code) }) = &mut self.fault
            && *vector != Vector::PageFault
        {
            *code |= EXTERNAL;
        }
        done
    }

    fn enter_handler(&mut self, event: &Event, world: &World<'_>) -> Result<(), Stop> {
        if self.system.is_real() {
            return self.enter_real_handler(event, world);
        }
        let gate = self.gate(event, world)?;
        let code = self.handler_segment(gate.selector, world)?;
        let old = self.system.cpl;
        let cpl = if code.is_conforming() { old } else { code.dpl() };
        let stack = self.handler_stack(&gate, cpl, world)?;
        self.check_pointer(&code, gate.offset)?;
        let before = [u64::from(self.segment(SS).selector), self.regs[RSP]];
        let long = self.system.is_long();
        let before = before.into_iter().filter(|_| long || cpl != old);
        let back = [event.flags, self.segment(CS).selector.into(), self.instruction_pointer()];
        let frame = before.chain(back).chain(event.code.map(u64::from));
        let top = self.push_frame(&stack, cpl, (frame, gate.width), world)?;
        if cpl != old {
            self.set_segment(SS, stack.segment.unwrap_or(Segment::null_stack(cpl)));
        }
        let selector = gate.selector & !3 | u16::from(cpl);
        self.go_to(Segment { selector, ..code }, gate.offset, cpl);
        self.set_stack_pointer(top);
        let cleared = TF | NT | RF | if gate.masks { IF } else { 0 };
        self.other_flags &= !cleared;
        Ok(())
    }

    /// By real mode's table of far pointers (Intel SDM 3-20.1.4).
    fn enter_real_handler(&mut self, event: &Event, world: &World<'_>) -> Result<(), Stop> {
        let offset = u64::from(event.vector) * 4;
        if offset + 3 > u64::from(self.system.idtr.limit) {
            return Err(self.general_protection(u32::from(event.vector) << 3 | IN_IDT));
        }
        let at = self.system.idtr.base.wrapping_add(offset);
        let pointer = self.as_system(|core| core.load::<u32>(at, world))?;
        let stack = Target { segment: Some(self.segment(SS)), pointer: self.regs[RSP] };
        let flags = event.flags & !RF;
        let frame = [flags, self.segment(CS).selector.into(), self.instruction_pointer()];
        let top = self.push_frame(&stack, 0, (frame.into_iter(), 2), world)?;
        self.set_stack_pointer(top);
        self.load_real(CS, (pointer >> 16) as u16);
        let code = self.segment(CS);
        self.go_to(code, u64::from(pointer & 0xffff), 0);
        self.other_flags &= !(IF | TF | AC | RF);
        Ok(())
    }

    /// Where the frame of a handler at `cpl` goes.
    fn handler_stack(&mut self, gate: &Gate, cpl: u8, world: &World<'_>) -> Result<Target, Stop> {
        let same = cpl == self.system.cpl;
        if !self.system.is_long() {
            return match same {
                true => Ok(Target { segment: Some(self.segment(SS)), pointer: self.regs[RSP] }),
                false => self.task_stack(cpl, world),
            };
        }
        let pointer = match gate.ist {
            0 if same => self.regs[RSP],
            0 => self.long_stack(cpl, world)?.pointer,
            n => self.task_word(TSS_IST1 + 8 * (n - 1), world)?,
        };
        Ok(Target { segment: None, pointer: pointer & !15 })
    }

    /// Pushes words of `width` bytes with the rights of `cpl`; returns the pointer then.
    pub(crate) fn push_frame(
        &mut self,
        stack: &Target,
        cpl: u8,
        (words, width): (impl Iterator<Item = u64>, u64),
        world: &World<'_>,
    ) -> Result<u64, Stop> {
        let before = self.tlb.view();
        let short = !self.system.is_long();
        self.tlb.set_view(View { user: cpl == 3, short, ..before });
        let mut top = stack.pointer;
        for word in words {
            top = stack.below(top, width);
            let at = match stack.segment {
                None => Some(top),
                Some(segment) => segment.reach(top, width, true),
            };
            let stored = match (at, width) {
                (None, _) => {
                    let code = if cpl == self.system.cpl { 0 } else { stack.error_code() };
                    Err(self.raise(Exception::with_code(Vector::Stack, code)))
                }
                (Some(at), 2) => self.store(at, word as u16, world),
                (Some(at), 4) => self.store(at, word as u32, world),
                (Some(at), _) => self.store(at, word, world),
            };
            if let Err(stop) = stored {
                self.fault = self.fault.map(|fault| fault.resolved(true));
                self.tlb.set_view(before);
                return Err(stop);
            }
        }
        self.tlb.set_view(before);
        Ok(top)
    }

    /// The gate of an event.
    fn gate(&mut self, event: &Event, world: &World<'_>) -> Result<Gate, Stop> {
        let code = u32::from(event.vector) << 3 | IN_IDT;
        let long = self.system.is_long();
        let size = if long { 16 } else { 8 };
        let offset = u64::from(event.vector) * size;
        if offset + size - 1 > u64::from(self.system.idtr.limit) {
            return Err(self.general_protection(code));
        }
        let at = self.system.idtr.base.wrapping_add(offset);
        let [low, high] = self.as_system(|core| {
            let low = core.load(at, world)?;
            Ok([low, if long { core.load(at.wrapping_add(8), world)? } else { 0 }])
        })?;
        let (kind, dpl) = (low >> 40 & 31, (low >> 45) as u8 & 3);
        let wide = matches!(kind, INTERRUPT_GATE | TRAP_GATE);
        let narrow = matches!(kind | 8, INTERRUPT_GATE | TRAP_GATE) && !wide;
        let known = wide || !long && (narrow || kind == TASK_GATE);
        if !known || event.software && dpl < self.system.cpl {
            return Err(self.general_protection(code));
        }
        if low >> 47 & 1 == 0 {
            return Err(self.raise(Exception::with_code(Vector::SegmentNotPresent, code)));
        }
        if kind == TASK_GATE {
            return Err(self.refuse("task switch by hardware, through a gate"));
        }
        let middle = if wide { low >> 32 & 0xffff_0000 } else { 0 };
        Ok(Gate {
            selector: (low >> 16) as u16,
            offset: low & 0xffff | middle | high << 32,
            ist: if long { low >> 32 & 7 } else { 0 },
            masks: kind | 8 == INTERRUPT_GATE,
            width: if long {
                8
            } else if wide {
                4
            } else {
                2
            },
        })
    }

    /// The code segment of a handler.
    fn handler_segment(&mut self, selector: u16, world: &World<'_>) -> Result<Segment, Stop> {
        if is_null(selector) {
            return Err(self.general_protection(0));
        }
        let mut segment = self.describe(selector, world)?;
        let fits = segment.is_code64() || !self.system.is_long();
        if !fits || !self.can_be_code(&segment) || segment.dpl() > self.system.cpl {
            return Err(self.general_protection(error_code(selector)));
        }
        if !segment.is_present() {
            return Err(self.not_present(selector));
        }
        self.mark_accessed(&mut segment, world)?;
        Ok(segment)
    }

    /// The stack for the inner level `cpl` as the task-state segment outside long mode says (Intel
    /// SDM 3, figures 7-2 and 7-10).
    pub(crate) fn task_stack(&mut self, cpl: u8, world: &World<'_>) -> Result<Target, Stop> {
        let Segment { selector, base, limit, rights } = self.system.tr;
        let wide = rights & 8 != 0;
        let size = if wide { 8 } else { 4 };
        let offset = size / 2 + size * u64::from(cpl);
        if offset + size - 1 > u64::from(limit) {
            let code = error_code(selector);
            return Err(self.raise(Exception::with_code(Vector::InvalidTss, code)));
        }
        let at = base.wrapping_add(offset);
        let (pointer, stack) = self.as_system(|core| match wide {
            true => core.load::<u64>(at, world).map(|both| (both & 0xffff_ffff, both >> 32)),
            false => core
                .load::<u32>(at, world)
                .map(|both| ((both & 0xffff).into(), (both >> 16).into())),
        })?;
        let segment = self.stack_segment(stack as u16, cpl, (Vector::InvalidTss, false), world)?;
        Ok(Target { segment: Some(segment), pointer })
    }

    /// The stack for the inner level `cpl` as the task-state segment of long mode says.
    pub(crate) fn long_stack(&mut self, cpl: u8, world: &World<'_>) -> Result<Target, Stop> {
        let pointer = self.task_word(TSS_RSP0 + 8 * u64::from(cpl), world)?;
        Ok(Target { segment: None, pointer })
    }

    /// A stack pointer in the task-state segment.
    fn task_word(&mut self, offset: u64, world: &World<'_>) -> Result<u64, Stop> {
        let Segment { selector, base, limit, .. } = self.system.tr;
        if offset + 7 > u64::from(limit) {
            let code = error_code(selector);
            return Err(self.raise(Exception::with_code(Vector::InvalidTss, code)));
        }
        let stack = self.as_system(|core| core.load(base.wrapping_add(offset), world))?;
        if !is_canonical(stack) {
            return Err(self.raise(Exception::with_code(Vector::Stack, 0)));
        }
        Ok(stack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Cpu, Exit, Flat,
        testing::{
            CODE, CODE_0, CODE_3, DATA_0, DATA_3, HANDLERS, IDT, IST_STACK, Nobody, STACK,
            SYSTEM_STACK, machine, program, stack, system,
        },
    };

    /// Runs `code` at CPL 0 or 3 until a handler halts; the handler's vector.
    fn run(code: &[u8], cpl: u8) -> (Cpu, Flat, u64) {
        let (mut cpu, ram) = machine(code);
        system(&mut cpu, &ram);
        if cpl == 3 {
            program(&mut cpu);
        }
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        let vector = (cpu.registers().rip - 1 - HANDLERS) / 16;
        (cpu, ram, vector)
    }

    /// mov rax, [imm64]
    fn load(at: u64) -> Vec<u8> {
        [&[0x48, 0xa1], at.to_le_bytes().as_slice()].concat()
    }

    #[test]
    fn a_fault_at_level_0_stays_on_its_stack_and_pushes_ss() {
        // mov eax, eax; ud2
        let (cpu, ram, vector) = run(&[0x89, 0xc0, 0x0f, 0x0b], 0);
        assert_eq!(vector, 6);
        let frame = [CODE + 2, u64::from(CODE_0), 2 | RF, STACK, u64::from(DATA_0)];
        assert_eq!(stack(&cpu, &ram), frame);
        assert_eq!(cpu.registers().general[4], STACK - 40);
        assert_eq!(cpu.state().segments[2].selector, DATA_0);
    }

    #[test]
    fn a_fault_at_level_3_changes_to_the_stack_of_the_tss() {
        let (cpu, ram, vector) = run(&[0xf4], 3);
        assert_eq!(vector, 13);
        let frame = [0, CODE, u64::from(CODE_3), 2 | RF, STACK, u64::from(DATA_3)];
        assert_eq!(stack(&cpu, &ram), frame);
        assert_eq!(cpu.registers().general[4], SYSTEM_STACK - 48);
        let state = cpu.state();
        assert_eq!((state.segments[1].selector, state.segments[2].selector), (CODE_0, 0));
    }

    #[test]
    fn a_page_fault_says_where_and_why() {
        let at = 256 * 4096;
        let (cpu, ram, vector) = run(&load(at), 3);
        assert_eq!((vector, cpu.state().cr2), (14, at));
        assert_eq!(stack::<2>(&cpu, &ram), [1 << 2, CODE]);
    }

    #[test]
    fn addresses_that_are_not_canonical_are_gp_and_on_the_stack_ss() {
        let (cpu, ram, vector) = run(&load(1 << 47), 0);
        assert_eq!((vector, stack(&cpu, &ram)), (13, [0, CODE]));
        // mov rsp, 1 << 63; push rax: the handler's stack is no better, #DF has its own.
        let (cpu, ram, vector) = run(&[0x48, 0xbc, 0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0xd0], 0);
        assert_eq!((vector, stack(&cpu, &ram)), (8, [0, CODE + 10]));
        assert_eq!(cpu.registers().general[4], IST_STACK - 48);
    }

    #[test]
    fn errors_of_a_delivery_are_external_and_name_the_gate() {
        let (mut cpu, ram) = machine(&[0x0f, 0x0b]);
        system(&mut cpu, &ram);
        // The gate of #UD is not present.
        ram.write(IDT + 6 * 16 + 5, &[0x0e]);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!(cpu.registers().rip, HANDLERS + 11 * 16 + 1);
        assert_eq!(stack(&cpu, &ram), [6 << 3 | 3, CODE]);
    }

    #[test]
    fn a_fault_in_the_delivery_of_a_double_fault_ends_the_run() {
        let (mut cpu, ram) = machine(&[0x0f, 0x0b]);
        system(&mut cpu, &ram);
        let mut state = cpu.state();
        state.idtr.limit = 6 * 16;
        cpu.set_state(&state).unwrap();
        assert_eq!(cpu.run(&ram, &Nobody), Exit::TripleFault);
        assert_eq!(cpu.registers().rip, CODE);
    }

    /// Or nobody could look at the clock any more.
    #[test]
    fn faults_without_end_count_as_instructions() {
        let (mut cpu, ram) = machine(&[0x0f, 0x0b]);
        system(&mut cpu, &ram);
        // The handlers of #UD and #PF are where nothing is, the latter with a stack of its own.
        for vector in [6, 14] {
            ram.write(IDT + vector * 16 + 6, &[0x10]);
            ram.write(IDT + vector * 16 + 4, &[1]);
        }
        assert_eq!(cpu.run_for(1000, &ram, &Nobody), Exit::Count);
        assert_eq!((cpu.instructions(), cpu.registers().rip), (0, 0x10_0000 + HANDLERS + 14 * 16));
    }

    #[test]
    fn double_faults_are_made_as_the_manual_says() {
        let fault = |vector| Exception::with_code(vector, 0);
        use Vector::{DoubleFault, GeneralProtection, InvalidOpcode, PageFault, Stack};
        let table = [
            (InvalidOpcode, PageFault, Some(PageFault)),
            (GeneralProtection, PageFault, Some(PageFault)),
            (GeneralProtection, Stack, Some(DoubleFault)),
            (PageFault, PageFault, Some(DoubleFault)),
            (PageFault, GeneralProtection, Some(DoubleFault)),
            (DoubleFault, GeneralProtection, None),
        ];
        for (first, second, result) in table {
            let both = fault(first).with(fault(second));
            assert_eq!(both.map(|exception| exception.vector), result, "{first:?}, {second:?}");
        }
    }
}
