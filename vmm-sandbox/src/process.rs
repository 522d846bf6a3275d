//! What a kernel would keep of a program: everything its system calls are answered from.

use std::collections::BTreeMap;

use crate::{
    clock::Clock,
    files::{Files, Namespace, View},
    limits::Watch,
    space::Space,
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

/// What `brk` moves the end of.
#[derive(Clone, Copy, Debug)]
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
