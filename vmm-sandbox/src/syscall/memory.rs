//! Memory: brk, mmap and what goes with it. All of it is private and anonymous.

use rustix::io::Errno;

use super::{Answer, Call, Calls};
use crate::{
    process::Process,
    space::{PAGE, Protection, USER},
};

pub(super) const CALLS: Calls = &[
    (libc::SYS_brk, brk),
    (libc::SYS_madvise, madvise),
    (libc::SYS_mmap, mmap),
    (libc::SYS_mprotect, mprotect),
    (libc::SYS_mremap, mremap),
    (libc::SYS_munmap, munmap),
];

/// Sets the end of the heap; answers where it is, changed or not.
fn brk(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [wanted, ..] = call.args;
    let heap = &mut process.heap;
    if wanted < heap.start || wanted > process.mappings_end {
        return Ok(heap.end);
    }
    let (old, new) = (heap.end.next_multiple_of(PAGE), wanted.next_multiple_of(PAGE));
    let changed = if new > old {
        let free = process.space.mapped(old, new - old) == 0;
        free && process.space.map(old, new - old, Protection::READ_WRITE).is_ok()
    } else {
        old == new || process.space.unmap(new, old - new).is_ok()
    };
    if changed {
        heap.end = wanted;
    }
    Ok(heap.end)
}

fn mmap(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [at, len, protection, flags, fd, offset] = call.args;
    let has = |flag: i32| flags & flag as u64 == flag as u64;
    let len = whole_pages(len)?;
    let protection = protection_of(protection)?;
    let shared = flags & libc::MAP_TYPE as u64 != libc::MAP_PRIVATE as u64;
    if shared && !has(libc::MAP_ANONYMOUS) {
        return Err(Errno::NODEV);
    }
    let fixed = has(libc::MAP_FIXED) || has(libc::MAP_FIXED_NOREPLACE);
    let at = match fixed {
        true => place(at)?,
        false => choose(process, at, len)?,
    };
    if has(libc::MAP_FIXED_NOREPLACE) && process.space.mapped(at, len) > 0 {
        return Err(Errno::EXIST);
    }
    if has(libc::MAP_ANONYMOUS) {
        process.space.map(at, len, protection)?;
        return Ok(at);
    }
    map_file(process, fd, offset, (at, len, protection))?;
    Ok(at)
}

/// A private mapping of a file is its bytes as they are now.
fn map_file(
    process: &mut Process,
    fd: u64,
    offset: u64,
    (at, len, protection): (u64, u64, Protection),
) -> Result<(), Errno> {
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::INVAL);
    }
    let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
    end.ok_or(Errno::OVERFLOW)?;
    let file = process.files.get(fd)?;
    process.space.map(at, len, Protection::READ_WRITE)?;
    let mut chunk = vec![0; 64 << 10];
    let mut done = 0;
    while done < len {
        let most = (len - done).min(chunk.len() as u64) as usize;
        let Some(part) = chunk.get_mut(..most) else { break };
        process.watch.check()?;
        let count = file.lock().read_at(offset + done, part)?;
        if count == 0 {
            break;
        }
        process.space.load(at + done, part.get(..count).unwrap_or(&[]))?;
        done += count as u64;
    }
    process.space.protect(at, len, protection)
}

/// Where a mapping goes that the program leaves to us: at its hint if that is free, else as high as
/// possible.
fn choose(process: &Process, hint: u64, len: u64) -> Result<u64, Errno> {
    let hint = hint - hint % PAGE;
    let fits = hint >= USER.start && hint.checked_add(len).is_some_and(|end| end <= USER.end);
    if fits && process.space.mapped(hint, len) == 0 {
        return Ok(hint);
    }
    process.space.find(len, process.mappings_end).ok_or(Errno::NOMEM)
}

fn munmap(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [at, len, ..] = call.args;
    whole_pages(len).and_then(|len| process.space.unmap(at, len)).map_err(outside)?;
    Ok(0)
}

fn mprotect(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [at, len, protection, ..] = call.args;
    if len > 0 {
        process.space.protect(place(at)?, whole_pages(len)?, protection_of(protection)?)?;
    }
    Ok(0)
}

/// Grows, shrinks or moves a mapping.
fn mremap(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [at, old, new, flags, to, _] = call.args;
    let (at, old, new) = (place(at)?, whole_pages(old)?, whole_pages(new)?);
    let may = |flag: i32| flags & flag as u64 != 0;
    if flags & !((libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64) != 0 {
        return Err(Errno::INVAL);
    }
    let protection = process.space.protection(at, old).ok_or(Errno::FAULT)?;
    if may(libc::MREMAP_FIXED) {
        let end = to.checked_add(new).filter(|end| to >= USER.start && *end <= USER.end);
        let end = end.ok_or(Errno::INVAL)?;
        let overlap = to < at + old && at < end;
        if !may(libc::MREMAP_MAYMOVE) || overlap {
            return Err(Errno::INVAL);
        }
        return relocate(process, (at, old), (place(to)?, new), protection);
    }
    if new <= old {
        if new < old {
            process.space.unmap(at + new, old - new)?;
        }
        return Ok(at);
    }
    let end = at + old;
    let free = process.space.mapped(end, new - old) == 0 && end + (new - old) <= USER.end;
    if free && process.space.map(end, new - old, protection).is_ok() {
        return Ok(at);
    }
    if !may(libc::MREMAP_MAYMOVE) {
        return Err(Errno::NOMEM);
    }
    let to = process.space.find(new, process.mappings_end).ok_or(Errno::NOMEM)?;
    relocate(process, (at, old), (to, new), protection)
}

fn relocate(
    process: &mut Process,
    (at, old): (u64, u64),
    (to, new): (u64, u64),
    protection: Protection,
) -> Answer {
    if new > old {
        // What is new first: it is what may fail.
        process.space.map(to + old, new - old, protection)?;
    } else if new < old {
        process.space.unmap(at + new, old - new)?;
    }
    process.space.relocate(at, old.min(new), to)?;
    Ok(to)
}

fn madvise(process: &mut Process, call: &mut Call<'_>) -> Answer {
    let [at, len, advice, ..] = call.args;
    let at = place(at)?;
    if len == 0 {
        return Ok(0);
    }
    let len = whole_pages(len)?;
    match advice as i32 {
        libc::MADV_DONTNEED => process.space.discard(at, len)?,
        // Hints that change nothing a program can see.
        libc::MADV_NORMAL..=libc::MADV_WILLNEED
        | libc::MADV_FREE
        | libc::MADV_HUGEPAGE
        | libc::MADV_NOHUGEPAGE
        | libc::MADV_DONTDUMP
        | libc::MADV_DODUMP
        | libc::MADV_COLD
        | libc::MADV_PAGEOUT
        | libc::MADV_POPULATE_READ
        | libc::MADV_POPULATE_WRITE => {}
        _ => return Err(Errno::INVAL),
    }
    Ok(0)
}

fn place(at: u64) -> Result<u64, Errno> {
    at.is_multiple_of(PAGE).then_some(at).ok_or(Errno::INVAL)
}

/// A length rounded up to pages: `INVAL` for nothing, `NOMEM` for more than there are addresses.
fn whole_pages(len: u64) -> Result<u64, Errno> {
    match len {
        0 => Err(Errno::INVAL),
        len if len > USER.end => Err(Errno::NOMEM),
        len => Ok(len.next_multiple_of(PAGE)),
    }
}

fn protection_of(bits: u64) -> Result<Protection, Errno> {
    let has = |bit: i32| bits & bit as u64 != 0;
    let known = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    if bits & !(known as u64) != 0 {
        return Err(Errno::INVAL);
    }
    Ok(Protection {
        read: has(libc::PROT_READ),
        write: has(libc::PROT_WRITE),
        execute: has(libc::PROT_EXEC),
    })
}

/// Linux' munmap of what a program cannot have is invalid, not without memory.
fn outside(errno: Errno) -> Errno {
    if errno == Errno::NOMEM { Errno::INVAL } else { errno }
}
