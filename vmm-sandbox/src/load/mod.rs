//! Puts a program into an address space as Linux' `execve` does: segments, stack, arguments,
//! environment, auxiliary vector.

mod elf;
mod source;
mod stack;
mod symbol;

use rustix::io::Errno;
use vmm_core::{Error, Result};

pub(crate) use self::{elf::Program, source::Source, stack::Start};
use crate::space::{PAGE, Protection, Space, USER};

/// The gap that nothing is mapped to below the stack.
const STACK_GUARD: u64 = 1 << 20;

/// Where a loaded program's memory may grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Where the heap starts.
    pub(crate) heap: u64,
    /// Mappings go below.
    pub(crate) mappings_end: u64,
}

/// Loads a program, which `source` is, and gives the RSP it starts with.
///
/// # Errors
/// `BadConfig` if it, its stack or its arguments do not fit; `Host` if its file cannot be read.
pub(crate) fn load(
    space: &mut Space,
    program: &Program,
    source: &Source,
    start: &Start<'_>,
) -> Result<(Layout, u64)> {
    for segment in program.segments.iter() {
        let (at, len) = (segment.pages.start, segment.pages.end - segment.pages.start);
        let protection = segment.protection;
        // What nobody may read has its content all the same: mprotect may show it.
        let first = if protection.any() { protection } else { Protection::READ };
        let refused = |errno| no_room("the program", errno);
        space.map(at, len, first).map_err(refused)?;
        let (from, in_file) = (segment.file.start, segment.file.end - segment.file.start);
        match source {
            Source::File(file, _) => space.load_file(at, in_file, file, from)?,
            Source::Bytes(bytes) => {
                let rest = bytes.get(from as usize..);
                let bytes = rest.and_then(|rest| rest.get(..in_file as usize));
                space.load(at, bytes.unwrap_or(&[])).map_err(refused)?;
            }
        }
        if first != protection {
            space.protect(at, len, protection).map_err(refused)?;
        }
    }
    let top = USER.end - PAGE;
    let size = start.stack_size;
    let stack = space.map(top - size, size, Protection::READ_WRITE);
    stack.map_err(|errno| no_room("its stack", errno))?;
    let rsp = stack::write(space, program, start, top)?;
    let heap = program.segments.iter().map(|segment| segment.end).max().unwrap_or(USER.start);
    let layout =
        Layout { heap: heap.next_multiple_of(PAGE), mappings_end: top - size - STACK_GUARD };
    Ok((layout, rsp))
}

fn no_room(what: &str, errno: Errno) -> Error {
    match errno {
        Errno::NOMEM => Error::bad_config(format!("the memory limit leaves no room for {what}")),
        errno => Error::internal(format!("loading {what}: {errno}")),
    }
}
