//! Disks: those of the library, and the caller's own.

#![expect(unsafe_code, reason = "what C passes are pointers")]

use std::{
    ffi::{c_char, c_void},
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use vmm_core::{Error, Result};
use vmm_devices::{Block, BlockHandle, Image, MemoryImage, Overlay, RateLimit, RawFile};

use crate::{
    error::{vmm_error, vmm_status},
    guard::{Exclusive, Shared, guard, tell},
    pass,
    user::User,
};

/// A disk, which guests find as a virtio block device. It is made, described by setters and given to
/// one machine; then it tells and changes what the machine has.
pub struct vmm_disk {
    handle: Shared<BlockHandle>,
    /// Until a machine has it: the device, or what was wrong.
    block: Exclusive<Option<Result<Block>>>,
}

impl vmm_disk {
    fn new(block: Block) -> Self {
        Self {
            handle: Shared::new("disk", block.handle()),
            block: Exclusive::new("disk", Some(Ok(block))),
        }
    }

    /// For a machine; a disk is in one at most.
    pub(crate) fn plug(&self) -> Result<Block> {
        self.block.use_up("disk: it was given to a machine before", |block| block)
    }
}

/// Gives the disk that `make` makes.
///
/// # Safety
/// As for [`pass::fill`] and [`guard`].
unsafe fn give(
    disk: *mut *mut vmm_disk,
    error: *mut *mut vmm_error,
    make: impl FnOnce() -> Result<Block>,
) -> vmm_status {
    // SAFETY: the caller's promise.
    unsafe {
        guard(error, || {
            pass::fill(disk, "disk", std::ptr::null_mut())?;
            pass::fill(disk, "disk", pass::give(vmm_disk::new(make()?)))
        })
    }
}

/// Changes a disk that no machine has yet.
///
/// # Safety
/// As for [`pass::object`].
unsafe fn change(disk: *mut vmm_disk, change: impl FnOnce(Block) -> Result<Block>) {
    // SAFETY: the caller's promise.
    if let Some(disk) = unsafe { disk.as_ref() } {
        disk.block.change(|block| {
            let used = Err(Error::internal("disk: a setting panicked"));
            *block = std::mem::replace(block, used).and_then(change);
        });
    }
}

/// The raw image at this path, to be read and written by nobody else meanwhile; its format is never
/// guessed. VMM_STATUS_HOST if it cannot be opened; VMM_STATUS_BAD_CONFIG if another process has it, or
/// it is not whole sectors of 512 bytes. Freed with vmm_disk_free, as those that follow.
///
///     vmm_disk_open("root.img", &disk, NULL);
///     vmm_disk_set_queues(disk, 2);
///     vmm_config_add_disk(config, disk);
///     vmm_disk_free(disk);                         // Or kept, for vmm_disk_get_statistics.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_open(
    path: *const c_char,
    disk: *mut *mut vmm_disk,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe { give(disk, error, || Block::open(pass::path(path, "path")?)) }
}

/// The raw image at this path, which several may read. Fails as vmm_disk_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_open_read_only(
    path: *const c_char,
    disk: *mut *mut vmm_disk,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe { give(disk, error, || Block::open_read_only(pass::path(path, "path")?)) }
}

/// `bytes` of this process's memory, zeros at first: whole sectors of 512 bytes, else
/// VMM_STATUS_BAD_CONFIG.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_memory(
    bytes: u64,
    disk: *mut *mut vmm_disk,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe { give(disk, error, || Block::image(MemoryImage::new(bytes)?)) }
}

/// The raw image at `base`, which is only read, and what is written instead: in a file without a
/// name that is gone with the disk. Fails as vmm_disk_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_overlay_temporary(
    base: *const c_char,
    disk: *mut *mut vmm_disk,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe { give(disk, error, || Block::image(Overlay::temporary(read_only(base)?)?)) }
}

/// The same with a new file at `path`, which keeps what was written: vmm_disk_overlay_open goes on
/// with it. The base must stay as it is. VMM_STATUS_HOST if there is a file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_overlay_create(
    path: *const c_char,
    base: *const c_char,
    disk: *mut *mut vmm_disk,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        give(disk, error, || {
            Block::image(Overlay::create(pass::path(path, "path")?, read_only(base)?)?)
        })
    }
}

/// The overlay of `base` that was kept at `path`. VMM_STATUS_BAD_IMAGE if that is none,
/// VMM_STATUS_INCOMPATIBLE if it is one of a disk of another length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_overlay_open(
    path: *const c_char,
    base: *const c_char,
    disk: *mut *mut vmm_disk,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        give(disk, error, || {
            Block::image(Overlay::open(pass::path(path, "path")?, read_only(base)?)?)
        })
    }
}

/// # Safety
/// As for [`pass::path`].
unsafe fn read_only(base: *const c_char) -> Result<RawFile> {
    // SAFETY: the caller's promise.
    RawFile::open_read_only(unsafe { pass::path(base, "base") }?)
}

/// What a disk of the caller's own does. Each function gives 0, or the errno that says why not; the
/// guest gets an I/O error.
///
/// They are called on threads of the disk's, one for each queue, several at once, never on one that
/// runs a guest: they may take their time. What they are asked for is within the disk and whole
/// sectors of 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct vmm_disk_ops {
    /// sizeof(vmm_disk_ops).
    pub struct_size: usize,
    /// Fills `data` with what is at `at`. Must not be NULL.
    pub read:
        Option<unsafe extern "C" fn(user: *mut c_void, at: u64, data: *mut u8, size: usize) -> i32>,
    /// Writes `data` to `at`; NULL for a disk that is only read.
    pub write: Option<
        unsafe extern "C" fn(user: *mut c_void, at: u64, data: *const u8, size: usize) -> i32,
    >,
    /// Makes what was written durable; NULL if there is nothing to do.
    pub flush: Option<unsafe extern "C" fn(user: *mut c_void) -> i32>,
    /// Nobody needs these bytes any more; NULL if that is no news.
    pub discard: Option<unsafe extern "C" fn(user: *mut c_void, at: u64, size: u64) -> i32>,
    /// Makes the disk so long, on the thread of vmm_disk_resize; NULL if it has one size for ever.
    pub resize: Option<unsafe extern "C" fn(user: *mut c_void, size: u64) -> i32>,
    /// The library is done with `user`.
    pub drop: Option<unsafe extern "C" fn(user: *mut c_void)>,
}

/// A disk of the caller's.
struct Own {
    ops: vmm_disk_ops,
    size: AtomicU64,
    user: User,
}

/// What one of its functions answered.
fn answered(errno: i32) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno.saturating_abs())) }
}

impl Image for Own {
    fn len(&self) -> u64 {
        self.size.load(Relaxed)
    }

    fn read_at(&self, at: u64, data: &mut [u8]) -> io::Result<()> {
        let read = self.ops.read.ok_or(io::ErrorKind::Unsupported)?;
        // SAFETY: the caller's function with the caller's pointer, and bytes that live as long as
        // the call.
        answered(unsafe { read(self.user.pointer, at, data.as_mut_ptr(), data.len()) })
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let write = self.ops.write.ok_or(io::ErrorKind::ReadOnlyFilesystem)?;
        // SAFETY: as for reads.
        answered(unsafe { write(self.user.pointer, at, data.as_ptr(), data.len()) })
    }

    fn flush(&self) -> io::Result<()> {
        // SAFETY: the caller's function with the caller's pointer.
        answered(self.ops.flush.map_or(0, |flush| unsafe { flush(self.user.pointer) }))
    }

    fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        // SAFETY: as above.
        answered(
            self.ops.discard.map_or(0, |discard| unsafe { discard(self.user.pointer, at, len) }),
        )
    }

    fn is_read_only(&self) -> bool {
        self.ops.write.is_none()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let resize = self.ops.resize.ok_or(io::ErrorKind::Unsupported)?;
        // SAFETY: as above.
        answered(unsafe { resize(self.user.pointer, len) })?;
        self.size.store(len, Relaxed);
        Ok(())
    }
}

/// Makes a disk of `size` bytes, whole sectors of 512, of the caller's functions. If this fails,
/// with VMM_STATUS_BAD_CONFIG, `user` stays the caller's: `drop` is not called.
///
///     static const vmm_disk_ops ops = {.struct_size = sizeof ops, .read = fetch, .write = store};
///     vmm_disk_new(&ops, 1 << 30, &connection, &disk, NULL);
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_new(
    ops: *const vmm_disk_ops,
    size: u64,
    user: *mut c_void,
    disk: *mut *mut vmm_disk,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        give(disk, error, || {
            let ops = pass::ops(ops, size_of::<vmm_disk_ops>())?;
            if ops.read.is_none() {
                return Err(Error::bad_config("ops: read is NULL"));
            }
            if size == 0 || !size.is_multiple_of(512) {
                return Err(Error::bad_config(format!("disk of {size} bytes: not whole sectors")));
            }
            let user = User { pointer: user, drop: ops.drop };
            Block::image(Own { ops, size: AtomicU64::new(size), user })
        })
    }
}

/// Frees the caller's hold on a disk; a machine that has it keeps it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_free(disk: *mut vmm_disk) {
    // SAFETY: the header's rules.
    unsafe { pass::free(disk) };
}

/// The guest can write nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_set_read_only(disk: *mut vmm_disk) {
    // SAFETY: the header's rules.
    unsafe { change(disk, |block| Ok(block.read_only())) };
}

/// What the guest finds as the disk's serial number: at most 20 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_set_serial(disk: *mut vmm_disk, serial: *const c_char) {
    // SAFETY: the header's rules.
    unsafe { change(disk, |block| block.serial(pass::text(serial, "serial")?)) };
}

/// How many queues it has, 1 to 64, each with a thread: as many processors of the guest need not
/// wait for each other. 1 unless said otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_set_queues(disk: *mut vmm_disk, count: u32) {
    // SAFETY: the header's rules.
    unsafe { change(disk, |block| block.queues(count as usize)) };
}

/// The guest reads and writes at most `per_second` bytes a second, and `burst` at once after a rest.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_set_limit(disk: *mut vmm_disk, per_second: u64, burst: u64) {
    // SAFETY: the header's rules.
    unsafe { change(disk, |block| block.limit(RateLimit { per_second, burst })) };
}

/// Its size in bytes; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_size(disk: *const vmm_disk) -> u64 {
    // SAFETY: the header's rules.
    unsafe { tell(disk, 0, |disk| disk.handle.anyway().len()) }
}

/// Makes the disk `size` bytes long, also while the guest runs, which is told. VMM_STATUS_UNSUPPORTED
/// if it cannot be resized, VMM_STATUS_BAD_CONFIG if these are not whole sectors, VMM_STATUS_HOST with
/// what the host, or the disk's function, says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_resize(
    disk: *mut vmm_disk,
    size: u64,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || pass::object(disk, "disk")?.handle.with(|handle| handle.resize(size)))
    }
}

/// What a guest has asked a disk for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmm_disk_statistics {
    /// sizeof(vmm_disk_statistics), set by the caller.
    pub struct_size: usize,
    /// Reads that succeeded.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Discards and writes of zeros that succeeded.
    pub discards: u64,
    /// Requests that failed, or that the disk cannot do.
    pub errors: u64,
}

/// Fills `*statistics`, as much of it as its `struct_size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_disk_get_statistics(
    disk: *const vmm_disk,
    statistics: *mut vmm_disk_statistics,
    error: *mut *mut vmm_error,
) -> vmm_status {
    // SAFETY: the header's rules.
    unsafe {
        guard(error, || {
            let disk = pass::object(disk, "disk")?;
            let now = disk.handle.with(|handle| Ok(handle.statistics()))?;
            let filled = vmm_disk_statistics {
                struct_size: 0,
                reads: now.reads,
                read_bytes: now.read_bytes,
                writes: now.writes,
                written_bytes: now.written_bytes,
                flushes: now.flushes,
                discards: now.discards,
                errors: now.errors,
            };
            pass::fill_sized(statistics, "statistics", filled)
        })
    }
}
