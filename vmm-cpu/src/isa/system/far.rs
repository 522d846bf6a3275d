//! Jumps, calls and returns to other code segments, directly and by call gates (Intel SDM 3-5.8).

use iced_x86::Code;

use crate::{
    core::{Core, World},
    decode::Lowering,
    exception::Target,
    isa::Done,
    op::{Op, Stop, exec},
    regs::{PAGE, RSP},
    segment::{Into, error_code, is_null},
    state::Segment,
    system::{CS, SS},
    word::Word,
};

/// Types of system segments (Intel SDM 3, table 3-2).
mod kind {
    pub(super) const TASK_16: u8 = 1;
    pub(super) const CALL_GATE_16: u8 = 4;
    pub(super) const TASK_GATE: u8 = 5;
    pub(super) const TASK: u8 = 9;
    pub(super) const CALL_GATE: u8 = 12;
}

/// As AMD's processors have it, far pointers in memory have offsets of up to 32 bits (AMD APM 3, "JMP
/// (Far)").
pub(super) fn lower(l: &mut Lowering<'_>) -> Option<()> {
    let i = l.instruction;
    let exec = match i.code() {
        Code::Call_m1616 => exec!(call::<u16, false>),
        Code::Call_m1632 => exec!(call::<u32, false>),
        Code::Call_ptr1616 => exec!(call::<u16, true>),
        Code::Call_ptr1632 => exec!(call::<u32, true>),
        Code::Jmp_m1616 => exec!(jump::<u16, false>),
        Code::Jmp_m1632 => exec!(jump::<u32, false>),
        Code::Jmp_ptr1616 => exec!(jump::<u16, true>),
        Code::Jmp_ptr1632 => exec!(jump::<u32, true>),
        Code::Retfq | Code::Retfq_imm16 => exec!(back::<u64>),
        Code::Retfd | Code::Retfd_imm16 => exec!(back::<u32>),
        Code::Retfw | Code::Retfw_imm16 => exec!(back::<u16>),
        _ => return None,
    };
    let mut op = l.operands().0;
    op.exec = exec;
    match i.code() {
        Code::Call_ptr1616 | Code::Jmp_ptr1616 => {
            op.imm = u64::from(i.far_branch16()) | u64::from(i.far_branch_selector()) << 32;
        }
        Code::Call_ptr1632 | Code::Jmp_ptr1632 => {
            op.imm = u64::from(i.far_branch32()) | u64::from(i.far_branch_selector()) << 32;
        }
        Code::Call_m1616 | Code::Call_m1632 | Code::Jmp_m1616 | Code::Jmp_m1632 => {}
        _ => {
            op.imm = u64::from(i.immediate16());
            op.scale |= Op::STACK;
        }
    }
    l.push(op);
    Some(())
}

/// Where a far jump or call leads.
struct Way {
    code: Segment,
    pointer: u64,
    /// By a gate: the size in bytes of what a call pushes, and how many such words are copied to
    /// the stack of an inner level.
    gate: Option<(u64, u64)>,
}

/// The far pointer in memory, or in the instruction.
fn pointer<W: Word, const DIRECT: bool>(
    core: &mut Core,
    op: &Op,
    world: &World<'_>,
) -> Result<(u64, u16), Stop> {
    if DIRECT {
        return Ok((op.imm & 0xffff_ffff, (op.imm >> 32) as u16));
    }
    let at = core.address(op);
    let offset = core.load::<W>(at, world)?.zext();
    Ok((offset, core.load(at.wrapping_add(W::BYTES), world)?))
}

/// Looks up where a far pointer of a jump, or of a call, leads.
fn way(
    core: &mut Core,
    (pointer, selector): (u64, u16),
    jumps: bool,
    world: &World<'_>,
) -> Result<Way, Stop> {
    if core.system.is_real() {
        let code = core.real_code(selector, pointer)?;
        return Ok(Way { code, pointer, gate: None });
    }
    if is_null(selector) {
        return Err(core.general_protection(0));
    }
    let descriptor = core.descriptor(selector, world)?;
    let segment = Segment::described(selector, descriptor);
    let long = core.system.is_long();
    match segment.system_type() {
        None => {
            let code = core.as_code(segment, Into::Same, world)?;
            core.check_pointer(&code, pointer)?;
            Ok(Way { code, pointer, gate: None })
        }
        Some(kind::CALL_GATE) => through(core, segment, descriptor, jumps, world),
        Some(kind::CALL_GATE_16) if !long => through(core, segment, descriptor, jumps, world),
        Some(kind::TASK | kind::TASK_16 | kind::TASK_GATE) if !long => {
            Err(core.refuse("task switch by hardware, by a jump or call"))
        }
        _ => Err(core.general_protection(error_code(selector))),
    }
}

/// Looks through a call gate, which `gate` describes as far as rights go.
fn through(
    core: &mut Core,
    gate: Segment,
    descriptor: u64,
    jumps: bool,
    world: &World<'_>,
) -> Result<Way, Stop> {
    let (selector, cpl, long) = (gate.selector, core.system.cpl, core.system.is_long());
    let wrong = error_code(selector);
    if gate.dpl() < cpl.max(selector as u8 & 3) {
        return Err(core.general_protection(wrong));
    }
    if !gate.is_present() {
        return Err(core.not_present(selector));
    }
    let mut high = 0;
    if long {
        let at = core.descriptor_at(selector, 16)?.wrapping_add(8);
        high = core.as_system(|core| core.load::<u64>(at, world))?;
        if high >> 40 & 31 != 0 {
            return Err(core.general_protection(wrong));
        }
    }
    let wide = gate.system_type() == Some(kind::CALL_GATE);
    let middle = if wide { descriptor >> 32 & 0xffff_0000 } else { 0 };
    let pointer = descriptor & 0xffff | middle | high << 32;
    let inner = (descriptor >> 16) as u16;
    if is_null(inner) {
        return Err(core.general_protection(0));
    }
    let mut code = core.describe(inner, world)?;
    let level = if jumps && !code.is_conforming() { code.dpl() == cpl } else { code.dpl() <= cpl };
    if !core.can_be_code(&code) || long && !code.is_code64() || !level {
        return Err(core.general_protection(error_code(inner)));
    }
    if !code.is_present() {
        return Err(core.not_present(inner));
    }
    core.mark_accessed(&mut code, world)?;
    core.check_pointer(&code, pointer)?;
    let width = match (long, wide) {
        (true, _) => 8,
        (false, true) => 4,
        (false, false) => 2,
    };
    let parameters = if long { 0 } else { descriptor >> 32 & 31 };
    Ok(Way { code, pointer, gate: Some((width, parameters)) })
}

impl Way {
    /// The privilege level there.
    fn level(&self, core: &Core) -> u8 {
        match self.gate {
            Some(_) if !self.code.is_conforming() => self.code.dpl(),
            _ => core.system.cpl,
        }
    }

    fn go(self, core: &mut Core, cpl: u8) {
        let selector = match core.system.is_real() {
            true => self.code.selector,
            false => self.code.selector & !3 | u16::from(cpl),
        };
        core.go_to(Segment { selector, ..self.code }, self.pointer, cpl);
    }
}

fn jump<W: Word, const DIRECT: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let to = pointer::<W, DIRECT>(core, op, world)?;
    let way = way(core, to, true, world)?;
    way.go(core, core.system.cpl);
    Err(Stop::Jump)
}

fn call<W: Word, const DIRECT: bool>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let to = pointer::<W, DIRECT>(core, op, world)?;
    let way = way(core, to, false, world)?;
    let (old, cpl) = (core.system.cpl, way.level(core));
    let (width, parameters) = way.gate.unwrap_or((W::BYTES, 0));
    let next = core.regs[PAGE].wrapping_add(op.next()).wrapping_sub(core.code_base);
    let back = [u64::from(core.segment(CS).selector), core.within(next)];
    let (top, stack) = if cpl == old {
        let stack = core.current_stack();
        (core.push_frame(&stack, cpl, (back.into_iter(), width), world)?, None)
    } else {
        let stack = match core.system.is_long() {
            true => core.long_stack(cpl, world)?,
            false => core.task_stack(cpl, world)?,
        };
        let mut frame = vec![u64::from(core.segment(SS).selector), core.regs[RSP]];
        for n in (0..parameters).rev() {
            let at = n * width;
            frame.push(match width {
                2 => core.stack_word::<u16>(at, world)?,
                _ => core.stack_word::<u32>(at, world)?,
            });
        }
        frame.extend(back);
        let top = core.push_frame(&stack, cpl, (frame.into_iter(), width), world)?;
        (top, Some(stack.segment.unwrap_or(Segment::null_stack(cpl))))
    };
    if let Some(segment) = stack {
        core.set_segment(SS, segment);
    }
    way.go(core, cpl);
    core.set_stack_pointer(top);
    Err(Stop::Jump)
}

impl Core {
    /// The stack as it is.
    fn current_stack(&self) -> Target {
        let segment = (!self.system.is_64_bit()).then(|| self.segment(SS));
        Target { segment, pointer: self.regs[RSP] }
    }

    /// A word of the stack, so many bytes from its top on.
    pub(super) fn stack_word<W: Word>(
        &mut self,
        offset: u64,
        world: &World<'_>,
    ) -> Result<u64, Stop> {
        let pointer = self.regs[RSP].wrapping_add(offset) & self.stack_mask();
        let at = match self.system.is_64_bit() {
            true => pointer,
            false => self.segment_address(SS, pointer, W::BYTES, false)?,
        };
        Ok(self.load::<W>(at, world)?.zext())
    }

    /// Returns to code at `cpl`, the same or an outer level, with `stack` if that changes, else
    /// `popped` bytes less on the stack.
    pub(super) fn return_to(
        &mut self,
        (code, pointer, cpl): (Segment, u64, u8),
        stack: Option<(Segment, u64)>,
        popped: u64,
    ) {
        let old = self.system.cpl;
        let top = match stack {
            Some((segment, top)) => {
                self.set_segment(SS, segment);
                top
            }
            None => self.regs[RSP].wrapping_add(popped),
        };
        if cpl != old {
            self.hide_segments(cpl);
        }
        self.go_to(code, pointer, cpl);
        self.set_stack_pointer(top);
    }

    /// The code segment in real mode when it has this selector; #GP(0) if it has no such offset.
    pub(super) fn real_code(&mut self, selector: u16, pointer: u64) -> Result<Segment, Stop> {
        if pointer > self.code_limit {
            return Err(self.general_protection(0));
        }
        Ok(Segment { selector, base: u64::from(selector) << 4, ..self.segment(CS) })
    }
}

fn back<W: Word>(core: &mut Core, op: &Op, world: &World<'_>) -> Done {
    let pointer = core.stack_word::<W>(0, world)?;
    let selector = core.stack_word::<W>(W::BYTES, world)? as u16;
    let popped = 2 * W::BYTES + op.imm;
    if core.system.is_real() {
        let code = core.real_code(selector, pointer)?;
        core.return_to((code, pointer, 0), None, popped);
        return Err(Stop::Jump);
    }
    let code = core.code_segment(selector, Into::Back, world)?;
    let cpl = selector as u8 & 3;
    let mut stack = None;
    if cpl != core.system.cpl {
        let top = core.stack_word::<W>(popped, world)?.wrapping_add(op.imm);
        let selector = core.stack_word::<W>(popped + W::BYTES, world)? as u16;
        let segment = core.return_stack(selector, &code, cpl, world)?;
        stack = Some((segment, top));
    }
    core.check_pointer(&code, pointer)?;
    core.return_to((code, pointer, cpl), stack, popped);
    Err(Stop::Jump)
}

#[cfg(test)]
mod tests {
    use crate::{
        Exit,
        regs::RSP,
        testing::{CODE, CODE_0, DATA, Nobody, machine, stack, system},
    };

    #[test]
    fn a_far_call_and_return_bring_the_stack_back() {
        // call far [DATA]; hlt
        let (mut cpu, ram) = machine(&[0xff, 0x1c, 0x25, 0, 0, 3, 0, 0xf4]);
        system(&mut cpu, &ram);
        ram.write(DATA, &(CODE + 0x100).to_le_bytes());
        ram.write(DATA + 4, &CODE_0.to_le_bytes());
        // retf
        ram.write(CODE + 0x100, &[0xcb]);
        let before = cpu.core.regs[RSP];
        cpu.step(&ram, &Nobody);
        assert_eq!(stack(&cpu, &ram), [(CODE + 7) | u64::from(CODE_0) << 32]);
        assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
        assert_eq!((cpu.registers().rip, cpu.core.regs[RSP]), (CODE + 8, before));
    }
}
