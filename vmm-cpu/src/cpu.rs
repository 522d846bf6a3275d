//! The CPU as its users have it, and the loop that executes blocks.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use crate::{
    code::{Code, CodeMap, Note, Run},
    core::{Core, World},
    decode::{BLOCK_BYTES, Block, Decoder},
    flags::TF,
    io::Io,
    op::{Op, Stop, execute},
    ram::{OFFSET, PAGE_SIZE, Ram},
    regs::PAGE,
    system::mode,
    time::Tsc,
};

/// Makes [`Cpu::run`] come back: any thread may hold one.
#[derive(Clone, Debug, Default)]
pub struct Attention(Arc<AtomicBool>);

impl Attention {
    /// The CPU's [`run`](Cpu::run) returns [`Exit::Attention`] before its next block, or the next
    /// time it is called.
    pub fn call(&self) {
        self.0.store(true, Release);
    }

    fn is_called(&self) -> bool {
        self.0.load(Relaxed)
    }

    fn take(&self) -> bool {
        self.is_called() && self.0.swap(false, Acquire)
    }
}

/// The flag behind it: to set it is to call. For whoever must do so in a signal handler, or has one
/// flag for several purposes.
impl From<Attention> for Arc<AtomicBool> {
    fn from(attention: Attention) -> Self {
        attention.0
    }
}

/// Why [`Cpu::run`] returned. Always between two instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// Somebody called [`Attention::call`].
    Attention,
    /// As many instructions were executed as were asked for, or somewhat more.
    Count,
    /// HLT was executed.
    Halted,
    /// [`Io`] wished to leave.
    Io,
    /// [`Cpu::step`] has done its step.
    Step,
    /// An exception while a double fault was delivered: a processor would shut down.
    TripleFault,
    /// The next instruction, or an exception of it, needs what is not built: this.
    Unsupported(&'static str),
}

/// One CPU.
#[derive(Debug)]
pub struct Cpu {
    pub(crate) core: Core,
    code: Code,
    decoder: Decoder,
    jumps: Box<[Jump]>,
    attention: Attention,
    code_map: Arc<CodeMap>,
    /// The RAM's at the beginning of the last run.
    generation: Option<u64>,
}

/// Where a jump to `rip` leads.
#[derive(Clone, Copy, Debug)]
struct Jump {
    rip: u64,
    /// The core's when this was true.
    stamp: u64,
    run: Run,
}

const JUMPS: usize = 1 << 12;

/// What is executed next.
enum Next {
    /// Operations that are kept.
    Kept(Run),
    /// The decoder's, this once: one instruction.
    Once,
}

impl Cpu {
    /// A CPU in the state of [`State::default`](crate::State). CPUs that share memory share
    /// `code_map`.
    pub fn new(code_map: Arc<CodeMap>) -> Self {
        let run = Run { first: 0, count: 0, instructions: 0 };
        let nowhere = Jump { rip: 0, stamp: u64::MAX, run };
        Self {
            core: Core { epoch: code_map.epoch(), ..Core::new() },
            code: Code::new(),
            decoder: Decoder::new(),
            jumps: vec![nowhere; JUMPS].into(),
            attention: Attention::default(),
            code_map,
            generation: None,
        }
    }

    /// What makes [`run`](Self::run) come back.
    pub fn attention(&self) -> Attention {
        self.attention.clone()
    }

    /// Where this CPU, and those it shares memory with, have code.
    pub fn code_map(&self) -> &Arc<CodeMap> {
        &self.code_map
    }

    /// The time-stamp counter.
    pub fn tsc(&self) -> Tsc {
        self.core.system.tsc.clone()
    }

    /// How many instructions were executed.
    pub fn instructions(&self) -> u64 {
        self.core.instructions
    }

    /// The instructions met that are not built, by the number of their `iced_x86::Code`, and how
    /// often. User code got #UD for each.
    pub fn unknown(&self) -> impl Iterator<Item = (u16, u64)> {
        self.core.unknown.iter().map(|(code, times)| (*code, *times))
    }

    /// Executes guest code until only the caller can decide.
    pub fn run(&mut self, ram: &dyn Ram, io: &dyn Io) -> Exit {
        self.enter(ram, io, false)
    }

    /// As [`run`](Self::run), for so many instructions at most: to the end of the block in which
    /// they are complete. Exceptions, and a thousand rounds of a repetition, count as one.
    pub fn run_for(&mut self, instructions: u64, ram: &dyn Ram, io: &dyn Io) -> Exit {
        self.core.limit = self.core.instructions.saturating_add(instructions);
        let exit = self.enter(ram, io, false);
        self.core.limit = u64::MAX;
        exit
    }

    /// Executes one instruction, or delivers its exception.
    pub fn step(&mut self, ram: &dyn Ram, io: &dyn Io) -> Exit {
        self.enter(ram, io, true)
    }

    fn enter(&mut self, ram: &dyn Ram, io: &dyn Io, step: bool) -> Exit {
        let code_map = Arc::clone(&self.code_map);
        let world = World { ram, io, code_map: &code_map };
        let generation = ram.generation();
        if self.generation != Some(generation) {
            self.generation = Some(generation);
            self.core.generation = Some(generation);
            self.core.flush_tlb();
            self.code.clear();
        }
        self.core.refresh_mode();
        loop {
            if let Some(exit) = self.between(&world) {
                return exit;
            }
            let traps = self.core.other_flags & TF != 0;
            // What waits is looked at again right behind an instruction in the shadow.
            let waits = self.core.is_signalled() && self.core.leave_shadow();
            let alone = step || traps || waits || self.core.is_debugged();
            let exit = if alone { self.alone(&world) } else { self.many(&world) };
            if let Some(exit) = exit.or(step.then_some(Exit::Step)) {
                return exit;
            }
        }
    }

    /// What is looked at between blocks.
    fn between(&mut self, world: &World<'_>) -> Option<Exit> {
        self.catch_up(world);
        if std::mem::take(&mut self.core.leave) {
            return Some(Exit::Io);
        }
        if self.attention.take() {
            return Some(Exit::Attention);
        }
        if self.core.instructions >= self.core.limit {
            return Some(Exit::Count);
        }
        if self.core.is_signalled() {
            let taken = self.core.take_signal(world);
            return if taken { self.refused(None) } else { Some(Exit::TripleFault) };
        }
        None
    }

    /// Executes blocks until one ends with other than a jump to a block that is known.
    fn many(&mut self, world: &World<'_>) -> Option<Exit> {
        let run = match self.next(world) {
            Ok(Next::Kept(run)) => run,
            Ok(Next::Once) => return self.once(world),
            Err(_) => return self.deliver(None, world),
        };
        let (stop, at) = self.blocks(run, world);
        match stop {
            Stop::Careful => {
                let run = self.code.rest(at);
                self.carefully(Some(run), world)
            }
            Stop::Fault => self.deliver(Some(self.code.ops[at]), world),
            Stop::Halt => Some(Exit::Halted),
            Stop::Jump | Stop::Leave => None,
            Stop::Refuse => self.refused(Some(self.code.ops[at])),
        }
    }

    /// Executes a block, and those after it as far as they are known. Returns why the last one
    /// ended, and the number of its last operation.
    fn blocks(&mut self, mut run: Run, world: &World<'_>) -> (Stop, usize) {
        let Self { core, code, jumps, attention, .. } = self;
        loop {
            core.regs[PAGE] = core.rip & !OFFSET;
            let (first, count) = (run.first as usize, usize::from(run.count));
            // The last operation of a block always stops it.
            let (stop, at) = execute(core, &code.ops[first..first + count], world)
                .map_or((Stop::Leave, first + count - 1), |(stop, at)| (stop, first + at));
            if stop != Stop::Jump {
                let undone = matches!(stop, Stop::Careful | Stop::Fault | Stop::Refuse);
                let done = code.ops.get(at).map_or(0, |op| op.ordinal);
                core.instructions += u64::from(done) + u64::from(!undone);
                return (stop, at);
            }
            // Wraps where a repetition that goes on has taken its own back.
            core.instructions = core.instructions.wrapping_add(u64::from(run.instructions));
            let jump = &jumps[(core.rip as usize ^ core.rip as usize >> 12) % JUMPS];
            let known = jump.rip == core.rip && jump.stamp == core.stamp;
            let stop_here = attention.is_called() || core.instructions >= core.limit;
            if !known || stop_here || world.code_map.epoch() != core.epoch {
                return (stop, at);
            }
            run = jump.run;
        }
    }

    /// Executes one instruction, with the breakpoint before it and the traps behind it.
    fn alone(&mut self, world: &World<'_>) -> Option<Exit> {
        if !self.core.begins() {
            return self.deliver(None, world);
        }
        let before = self.core.instructions;
        let exit = self.one(world);
        // After an exception nothing is trapped: its handler begins. A trap behind HLT ends it.
        let done = matches!(exit, None | Some(Exit::Halted)) && self.core.instructions != before;
        if done && self.core.traps() { self.deliver(None, world) } else { exit }
    }

    /// Executes one instruction, on its own.
    fn one(&mut self, world: &World<'_>) -> Option<Exit> {
        match self.decode_one(world) {
            Ok(()) => self.once(world),
            Err(_) => self.deliver(None, world),
        }
    }

    /// Executes the one instruction that the decoder holds.
    fn once(&mut self, world: &World<'_>) -> Option<Exit> {
        self.core.regs[PAGE] = self.core.rip & !OFFSET;
        self.carefully(None, world)
    }

    /// Executes the first instruction of some that are kept, or the one that the decoder holds. RIP
    /// is set when it is done.
    fn carefully(&mut self, kept: Option<Run>, world: &World<'_>) -> Option<Exit> {
        let Self { core, code, decoder, .. } = self;
        let ops = match kept {
            Some(run) => &code.ops[run.first as usize..][..usize::from(run.count)],
            None => &decoder.ops,
        };
        let &first = ops.first()?;
        core.careful = true;
        core.rip = core.regs[PAGE].wrapping_add(first.next());
        let own = ops.iter().take_while(|op| op.ordinal == first.ordinal).count();
        let stop = execute(core, &ops[..own], world).map(|(stop, at)| (stop, ops[at]));
        core.careful = false;
        let undone = stop.is_some_and(|(stop, _)| matches!(stop, Stop::Fault | Stop::Refuse));
        core.instructions += u64::from(!undone);
        match stop {
            Some((Stop::Fault, op)) => self.deliver(Some(op), world),
            Some((Stop::Halt, _)) => Some(Exit::Halted),
            Some((Stop::Refuse, op)) => self.refused(Some(op)),
            _ => None,
        }
    }

    /// Delivers the exception of an operation, or of the fetch of one.
    fn deliver(&mut self, op: Option<Op>, world: &World<'_>) -> Option<Exit> {
        if let Some(op) = op {
            self.core.rip = self.core.regs[PAGE].wrapping_add(u64::from(op.offset));
        }
        let stack = op.is_some_and(|op| op.scale & Op::STACK != 0);
        // Where handlers fault at once no instruction is ever complete.
        self.core.limit = self.core.limit.saturating_sub(1);
        let delivered = self.core.deliver(stack, world);
        if delivered { self.refused(None) } else { Some(Exit::TripleFault) }
    }

    /// Comes back before an operation, or where it is, if something was refused.
    fn refused(&mut self, op: Option<Op>) -> Option<Exit> {
        if let Some(op) = op {
            self.core.rip = self.core.regs[PAGE].wrapping_add(u64::from(op.offset));
        }
        self.core.refused.take().map(Exit::Unsupported)
    }

    /// Learns what has become of code, by this CPU's last instruction or by others.
    fn catch_up(&mut self, world: &World<'_>) {
        let epoch = world.code_map.epoch();
        if self.core.epoch == epoch {
            return;
        }
        while self.core.epoch != epoch {
            let Some(note) = world.code_map.note_of(self.core.epoch) else {
                // Too many to be kept. What comes from here on is noted after this epoch.
                self.core.epoch = world.code_map.epoch();
                self.core.flush_tlb();
                self.code.clear();
                break;
            };
            let fewer = match note {
                Note::First(word) => {
                    self.core.tlb.forget_writes(word);
                    false
                }
                Note::Gone(word) => self.code.give_up(word),
                Note::Overwritten { host, len } => self.code.overwrite(host, len),
            };
            if fewer {
                self.core.forget_jumps();
            }
            self.core.epoch = self.core.epoch.wrapping_add(1);
        }
        // Where this CPU writes and has no code, it is likely that nobody needs any.
        if let Some(word) = self.core.overwrote.take()
            && !self.code.holds(word)
        {
            world.code_map.give_up(word);
        }
    }

    /// The block at RIP, decoded if need be.
    fn next(&mut self, world: &World<'_>) -> Result<Next, Stop> {
        let (rip, mode) = (self.core.rip, self.core.mode());
        if mode & mode::SEGMENTED != 0 && self.core.code_room() < BLOCK_BYTES as u64 {
            self.decode_one(world)?;
            return Ok(Next::Once);
        }
        let known = self.core.tlb.entry(rip).code(rip);
        let run = match known.and_then(|page| self.code.find(page + (rip & OFFSET), mode)) {
            Some(run) => run,
            None => match self.decode_block(world)? {
                Some(run) => run,
                None => {
                    self.decode_one(world)?;
                    return Ok(Next::Once);
                }
            },
        };
        let jump = &mut self.jumps[(rip as usize ^ rip as usize >> 12) % JUMPS];
        *jump = Jump { rip, stamp: self.core.stamp, run };
        Ok(Next::Kept(run))
    }

    /// Finds the block at RIP where the TLB does not know the page, or decodes it. `None` if there
    /// is none to keep: its first instruction is on two pages, not in RAM, or being written.
    fn decode_block(&mut self, world: &World<'_>) -> Result<Option<Run>, Stop> {
        self.core.rip = self.core.within(self.core.rip);
        let (rip, mode) = (self.core.rip, self.core.mode());
        let page = self.core.fetch_page(rip, world)?;
        // Tables that were marked as used may be code.
        self.catch_up(world);
        let Some(page) = page else { return Ok(None) };
        let start = page.identity() + (rip & OFFSET);
        if let Some(run) = self.code.find(start, mode) {
            return Ok(Some(run));
        }
        let mut bytes = [0; BLOCK_BYTES];
        let there = page.read(rip & OFFSET, &mut bytes);
        let Block::Whole(len) = self.decoder.block(&bytes[..there], rip & OFFSET, mode) else {
            return Ok(None);
        };
        self.keep(start, len, world);
        // Whoever wrote before the bytes were marked as code was not noticed.
        let mut now = [0; BLOCK_BYTES];
        page.read(rip & OFFSET, &mut now[..len as usize]);
        if now[..len as usize] != bytes[..len as usize] && self.code.overwrite(start, len) {
            self.core.forget_jumps();
        }
        // Whoever has written since then left a note.
        self.catch_up(world);
        Ok(self.code.find(start, mode))
    }

    /// Keeps the block that the decoder holds, and has writes to its bytes noticed from now on.
    fn keep(&mut self, start: u64, len: u64, world: &World<'_>) {
        let ops = &self.decoder.ops;
        if !self.code.has_room(ops.len()) {
            self.code.clear();
            self.core.forget_jumps();
        }
        self.code.insert(start, len, self.core.mode(), ops);
        let map = world.code_map;
        if !map.mark(start, len) {
            world.io.exclusive(&mut || map.mark_first(start, len));
            self.core.after_io(world);
        }
    }

    /// Decodes the one instruction at RIP, which may lie on two pages.
    fn decode_one(&mut self, world: &World<'_>) -> Result<(), Stop> {
        /// The longest instruction (Intel SDM 2-2.3.11).
        const LONGEST: usize = 15;
        let rip = self.core.within(self.core.rip);
        self.core.rip = rip;
        let offset = rip & OFFSET;
        let room = LONGEST.min(self.core.code_room() as usize);
        if room == 0 {
            return Err(self.core.general_protection(0));
        }
        // Where there is no RAM, all ones are read.
        let mut bytes = [0xff; LONGEST];
        let here = room.min((PAGE_SIZE - offset) as usize);
        if let Some(page) = self.core.fetch_page(rip, world)? {
            page.read(offset, &mut bytes[..here]);
        }
        let mode = self.core.mode();
        if self.decoder.one(&bytes[..here], offset, mode) {
            return Ok(());
        }
        if here < room {
            let next = self.core.within(rip.wrapping_add(here as u64));
            if let Some(page) = self.core.fetch_page(next, world)? {
                page.read(0, &mut bytes[here..room]);
            }
            if self.decoder.one(&bytes[..room], offset, mode) {
                return Ok(());
            }
        }
        // Intel SDM 2-2.3.11: longer than any instruction may be, or than the segment.
        Err(self.core.general_protection(0))
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;
    use crate::{
        regs::{RDI, RSI},
        testing::{DATA, Nobody, machine},
    };

    /// Loops of 20 million rounds: `mov ecx, 20_000_000; l: ...; sub ecx, 1; jnz l; hlt`, with RSI
    /// and RDI at data.
    #[test]
    #[ignore = "a measurement"]
    fn speed() {
        let programs: [(&str, &[u8]); 6] = [
            // add rax, rcx; xor rdx, rax; lea rbx, [rdx+rcx*2]
            ("registers", &[0x48, 0x01, 0xc8, 0x48, 0x31, 0xc2, 0x48, 0x8d, 0x1c, 0x4a]),
            // mov rax, [rsi]; add rax, [rsi+8]; mov [rdi], rax; add [rdi+16], rcx
            ("memory", &[0x48, 0x8b, 6, 0x48, 3, 0x46, 8, 0x48, 0x89, 7, 0x48, 1, 0x4f, 16]),
            // The same, one byte further.
            (
                "unaligned",
                &[0x48, 0x8b, 0x46, 1, 0x48, 3, 0x46, 9, 0x48, 0x89, 0x47, 1, 0x48, 1, 0x4f, 17],
            ),
            // call f; jmp over; f: ret
            ("calls", &[0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3]),
            // lea rax, [rip+2]; jmp rax
            ("indirect jumps", &[0x48, 0x8d, 5, 2, 0, 0, 0, 0xff, 0xe0]),
            // mov byte [rip+1], 7; mov eax, 0
            ("overwritten code", &[0xc6, 5, 1, 0, 0, 0, 7, 0xb8, 0, 0, 0, 0]),
        ];
        for (name, body) in programs {
            let back = (body.len() as u8 + 5).wrapping_neg();
            let code = [&[0xb9, 0, 0x2d, 0x31, 1], body, &[0x83, 0xe9, 1, 0x75, back, 0xf4]];
            let (mut cpu, ram) = machine(&code.concat());
            (cpu.core.regs[RSI], cpu.core.regs[RDI]) = (DATA, DATA + 0x8000);
            let begin = std::time::Instant::now();
            assert_eq!(cpu.run(&ram, &Nobody), Exit::Halted);
            let rate = cpu.instructions() as f64 / begin.elapsed().as_secs_f64() / 1e6;
            eprintln!("{name}: {rate:.0} M/s");
        }
    }
}
