//! What a kernel would keep of a program: everything its system calls are answered from.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use vmm_core::{Error, Result, persist::Kind};

use crate::{
    clock::Clock,
    files::{self, Copies, Files, Namespace, View},
    limits::{Spent, Watch},
    space::{PAGE, Space, USER},
    syscall::Signals,
};

/// A program in a sandbox, but for its registers.
pub(crate) struct Process {
    pub(crate) space: Space,
    pub(crate) heap: Heap,
    /// Mappings that may go anywhere go below.
    pub(crate) mappings_end: u64,
    pub(crate) files: Files,
    pub(crate) namespace: Namespace,
    /// The permissions that files are made without.
    pub(crate) umask: u32,
    /// The path of the program itself, which is not in its tree.
    pub(crate) name: Vec<u8>,
    pub(crate) signals: Signals,
    pub(crate) clock: Clock,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The limit of its memory in bytes, and of its stack.
    pub(crate) memory: u64,
    pub(crate) stack_size: u64,
    /// The bytes it may still put out.
    pub(crate) output_left: u64,
    pub(crate) watch: Watch,
    pub(crate) counts: Counts,
    /// It has come to its end.
    pub(crate) ended: Option<Ended>,
}

impl Process {
    /// What of it its files show.
    pub(crate) fn view(&self) -> View<'_> {
        View {
            files: &self.files,
            space: &self.space,
            program: &self.name,
            room: &self.namespace.room,
            mounted: Vec::new(),
        }
    }
}

/// What a snapshot keeps of a process beside its memory. Nothing of it changes any more.
pub(crate) struct Kept {
    heap: Heap,
    mappings_end: u64,
    files: Files,
    namespace: Namespace,
    umask: u32,
    name: Vec<u8>,
    signals: Signals,
    uid: u32,
    gid: u32,
    memory: u64,
    stack_size: u64,
    output_left: u64,
    /// What the monotonic clock showed.
    clock: Duration,
    spent: Spent,
}

impl Process {
    /// What a snapshot keeps of it.
    ///
    /// # Errors
    /// `Host` if a file of the host that it has open cannot be opened anew.
    pub(crate) fn keep(&self, copies: &mut Copies) -> Result<Kept> {
        Ok(Kept {
            heap: self.heap,
            mappings_end: self.mappings_end,
            files: self.files.copy(copies)?,
            namespace: self.namespace.copy(copies)?,
            umask: self.umask,
            name: self.name.clone(),
            signals: self.signals.clone(),
            uid: self.uid,
            gid: self.gid,
            memory: self.memory,
            stack_size: self.stack_size,
            output_left: self.output_left,
            clock: self.clock.monotonic(),
            spent: self.watch.spent(),
        })
    }

    /// Whether the program has called nothing since it was forked or restored. Without that there is
    /// nothing of it to restore but its memory and its times.
    pub(crate) fn is_untouched(&self) -> bool {
        self.counts.calls == 0
    }

    /// The clocks go on from where they stood when it was kept.
    pub(crate) fn restore_times(&mut self, kept: &Kept) {
        self.counts = Counts::default();
        self.clock = Clock::new(kept.clock);
        self.watch.restore(kept.spent);
    }

    /// Becomes what was kept, but for its memory and its times.
    ///
    /// # Errors
    /// As for [`keep`](Self::keep); it is then in no defined state.
    pub(crate) fn restore(&mut self, kept: &Kept, copies: &mut Copies) -> Result<()> {
        self.heap = kept.heap;
        self.mappings_end = kept.mappings_end;
        self.files = kept.files.copy(copies)?;
        self.namespace = kept.namespace.copy(copies)?;
        self.umask = kept.umask;
        self.name.clone_from(&kept.name);
        self.signals = kept.signals.clone();
        (self.uid, self.gid) = (kept.uid, kept.gid);
        (self.memory, self.stack_size) = (kept.memory, kept.stack_size);
        self.output_left = kept.output_left;
        self.ended = None;
        Ok(())
    }
}

impl Kept {
    /// The process in a sandbox of its own.
    ///
    /// # Errors
    /// As for [`Process::keep`].
    pub(crate) fn process(
        &self,
        space: Space,
        mut watch: Watch,
        copies: &mut Copies,
    ) -> Result<Process> {
        watch.restore(self.spent);
        Ok(Process {
            space,
            heap: self.heap,
            mappings_end: self.mappings_end,
            files: self.files.copy(copies)?,
            namespace: self.namespace.copy(copies)?,
            umask: self.umask,
            name: self.name.clone(),
            signals: self.signals.clone(),
            clock: Clock::new(self.clock),
            uid: self.uid,
            gid: self.gid,
            memory: self.memory,
            stack_size: self.stack_size,
            output_left: self.output_left,
            watch,
            counts: Counts::default(),
            ended: None,
        })
    }

    /// The limit of its memory.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// What of it goes into a file.
    pub(crate) fn record(&self) -> Record {
        Record {
            heap: self.heap,
            mappings_end: self.mappings_end,
            umask: self.umask,
            name: self.name.clone(),
            signals: self.signals.clone(),
            user: (self.uid, self.gid),
            stack_size: self.stack_size,
            clock: self.clock,
        }
    }

    /// Its files, for a file.
    ///
    /// # Errors
    /// As for [`Files::record`].
    pub(crate) fn files_record(&self) -> Result<files::Record> {
        self.files.record(&self.namespace)
    }
}

pub(crate) const RECORD: Kind = Kind { name: "process", version: 1 };

/// A process in a file, without what was lent to it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    heap: Heap,
    mappings_end: u64,
    umask: u32,
    name: Vec<u8>,
    signals: Signals,
    user: (u32, u32),
    stack_size: u64,
    clock: Duration,
}

/// What a process has that no file can give it.
pub(crate) struct Lent {
    pub(crate) space: Space,
    pub(crate) files: Files,
    pub(crate) namespace: Namespace,
    pub(crate) memory: u64,
    pub(crate) output_left: u64,
    pub(crate) watch: Watch,
}

/// Clocks show less: three thousand years.
const LATEST: Duration = Duration::from_secs(100_000_000_000);

impl Record {
    /// The process that goes on with what is lent to it now.
    ///
    /// # Errors
    /// `Snapshot` if what it says cannot be.
    pub(crate) fn process(&self, lent: Lent) -> Result<Process> {
        let Heap { start, end } = self.heap;
        let in_order = USER.start <= start && start <= end && end <= USER.end;
        let page = self.mappings_end.is_multiple_of(PAGE) && self.mappings_end <= USER.end;
        if !in_order || !page || !self.signals.is_whole() || self.clock > LATEST {
            return Err(Error::snapshot("process: heap, signals or clock are not possible"));
        }
        let Lent { space, files, namespace, memory, output_left, watch } = lent;
        Ok(Process {
            space,
            heap: self.heap,
            mappings_end: self.mappings_end,
            files,
            namespace,
            umask: self.umask & 0o777,
            name: self.name.clone(),
            signals: self.signals.clone(),
            clock: Clock::new(self.clock),
            uid: self.user.0,
            gid: self.user.1,
            memory,
            stack_size: self.stack_size.min(memory),
            output_left,
            watch,
            counts: Counts::default(),
            ended: None,
        })
    }
}

/// What `brk` moves the end of.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Heap {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// How a program ends itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    /// It has put out all it may.
    Output,
    Signalled(i32),
}

/// How often a program called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Calls that were answered.
    pub(crate) calls: u64,
    /// Calls that are not known here.
    pub(crate) unknown: BTreeMap<&'static str, u64>,
}
