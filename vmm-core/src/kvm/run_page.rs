//! The page KVM shares with a thread in KVM_RUN: why it came back, and the data of an access.
//!
//! Mapped a second time, next to `kvm-ioctls`' own mapping, because other threads set
//! `immediate_exit` in it while that crate holds a `&mut` to its own.
#![expect(unsafe_code, reason = "a page shared with the kernel")]

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::AtomicU8,
};

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO,
    KVM_EXIT_IO_OUT, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO,
    KVM_EXIT_SET_TPR, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_SYNC_X86_REGS, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_regs, kvm_run,
};
use kvm_ioctls::VcpuFd;
use rustix::mm::{MapFlags, ProtFlags};

use crate::{
    error::{HostResult, Result},
    exit::FaultKind,
    memory::GuestAddress,
};

/// The mapping.
#[derive(Debug)]
pub(super) struct RunPage {
    run: NonNull<kvm_run>,
    size: usize,
}

// SAFETY: the mapping is not tied to a thread; all access but the exit flag's goes through `&mut
// self`.
unsafe impl Send for RunPage {}

/// Why KVM_RUN returned 0: an access to answer, or something that ends `run`.
pub(super) enum Exit<'a> {
    Mmio(Mmio<'a>),
    Port(Port<'a>),
    /// Nothing to answer, such as that the guest has lowered CR8: run on.
    Notice,
    End,
}

/// What ends `run`.
pub(super) enum End {
    Fault(FaultKind),
    Halted,
    PowerOff,
    Reset,
}

/// An access to memory that is not there; the kernel takes what is in `data` after a read.
pub(super) struct Mmio<'a> {
    pub(super) at: GuestAddress,
    pub(super) write: bool,
    pub(super) data: &'a mut [u8],
}

/// An IN or OUT, or part of a string instruction: several elements, one after the other in `data`.
pub(super) struct Port<'a> {
    pub(super) port: u16,
    pub(super) out: bool,
    /// The size of an element in bytes.
    pub(super) width: usize,
    pub(super) data: &'a mut [u8],
}

impl RunPage {
    /// Maps the page of `vcpu`; `size` is KVM_GET_VCPU_MMAP_SIZE.
    pub(super) fn map(vcpu: &VcpuFd, size: usize) -> Result<Self> {
        // SAFETY: the descriptor is open while `vcpu` is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let run =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), size, prot, MapFlags::SHARED, fd, 0) }
                .host(|| "mapping the vCPU's run page")?;
        let run = NonNull::new(run.cast()).ok_or(rustix::io::Errno::FAULT);
        Ok(Self { run: run.host(|| "mapping the vCPU's run page")?, size })
    }

    /// `kvm_run.immediate_exit`, valid as long as the page is mapped.
    pub(super) fn exit_flag(&self) -> NonNull<AtomicU8> {
        // SAFETY: `run` points to a mapped `kvm_run`; taking a field's address reads nothing, and
        // it is not null.
        unsafe { NonNull::new_unchecked(&raw mut (*self.run.as_ptr()).immediate_exit).cast() }
    }

    /// Without a local APIC in the kernel, each KVM_RUN takes CR8 from here.
    pub(super) fn set_cr8(&self, value: u64) {
        // SAFETY: the page is mapped, and the vCPU is not in KVM_RUN: `run` takes it by `&mut`.
        unsafe { (*self.run.as_ptr()).cr8 = value }
    }

    /// From the next KVM_RUN on the kernel leaves the general registers here.
    pub(super) fn ask_for_regs(&mut self) {
        // SAFETY: the page is mapped, and the vCPU is not in KVM_RUN: we have `&mut self`.
        unsafe { (*self.run.as_ptr()).kvm_valid_regs = u64::from(KVM_SYNC_X86_REGS) }
    }

    /// The general registers as the last KVM_RUN left them or [`set_regs`](Self::set_regs) put them.
    #[inline]
    pub(super) fn regs(&self) -> kvm_regs {
        // SAFETY: the page is mapped; outside KVM_RUN the kernel does not write it. The field is
        // plain integers.
        unsafe { (*self.run.as_ptr()).s.regs.regs }
    }

    /// The general registers that the next KVM_RUN starts with.
    #[inline]
    pub(super) fn set_regs(&mut self, regs: &kvm_regs) {
        self.note_regs(regs);
        // SAFETY: as in `ask_for_regs`.
        unsafe { (*self.run.as_ptr()).kvm_dirty_regs = u64::from(KVM_SYNC_X86_REGS) }
    }

    /// What the registers are now that the kernel was told by an ioctl.
    pub(super) fn note_regs(&mut self, regs: &kvm_regs) {
        // SAFETY: as in `ask_for_regs`.
        unsafe {
            (*self.run.as_ptr()).s.regs.regs = *regs;
            (*self.run.as_ptr()).kvm_dirty_regs = 0;
        }
    }

    /// Lets the guest go on at `rip`.
    #[inline]
    pub(super) fn set_rip(&mut self, rip: u64) {
        // SAFETY: as in `ask_for_regs`.
        unsafe {
            (*self.run.as_ptr()).s.regs.regs.rip = rip;
            (*self.run.as_ptr()).kvm_dirty_regs = u64::from(KVM_SYNC_X86_REGS);
        }
    }

    /// The guest address whose memory the host could not give, if KVM_RUN failed for that.
    #[cold]
    pub(super) fn memory_fault(&self) -> Option<u64> {
        // SAFETY: the page is mapped, and the exit reason says that `memory_fault` is the valid
        // field of the union.
        let at = || unsafe { (*self.run.as_ptr()).__bindgen_anon_1.memory_fault.gpa };
        (self.reason() == KVM_EXIT_MEMORY_FAULT).then(at)
    }

    /// Why KVM_RUN came back. Only right after it returned 0.
    #[inline]
    pub(super) fn exit(&mut self) -> Exit<'_> {
        match self.reason() {
            KVM_EXIT_IO => Exit::Port(self.port()),
            KVM_EXIT_MMIO => Exit::Mmio(self.mmio()),
            KVM_EXIT_INTR | KVM_EXIT_IRQ_WINDOW_OPEN | KVM_EXIT_SET_TPR => Exit::Notice,
            _ => Exit::End,
        }
    }

    /// The particulars of [`Exit::End`].
    #[cold]
    pub(super) fn end(&self) -> End {
        match self.reason() {
            KVM_EXIT_HLT => End::Halted,
            KVM_EXIT_SHUTDOWN => End::Fault(FaultKind::TripleFault),
            KVM_EXIT_INTERNAL_ERROR => End::Fault(self.internal_error()),
            KVM_EXIT_FAIL_ENTRY => End::Fault(self.entry_failed()),
            KVM_EXIT_SYSTEM_EVENT => self.system_event(),
            other => End::Fault(FaultKind::Other(format!("unexpected KVM exit {other}"))),
        }
    }

    fn reason(&self) -> u32 {
        // SAFETY: the page is mapped; outside KVM_RUN the kernel does not write it.
        unsafe { (*self.run.as_ptr()).exit_reason }
    }

    fn port(&mut self) -> Port<'_> {
        // SAFETY: the exit reason says that `io` is the valid field of the union.
        let io = unsafe { (*self.run.as_ptr()).__bindgen_anon_1.io };
        let width = usize::from(io.size);
        let len = (width * io.count as usize).min(self.size - io.data_offset as usize);
        let start = self.run.as_ptr().cast::<u8>();
        // SAFETY: the kernel puts the data at this offset of the same mapping, and does not touch
        // it outside KVM_RUN. The slice borrows `self`, so KVM_RUN cannot be entered while it
        // lives.
        let data =
            unsafe { std::slice::from_raw_parts_mut(start.add(io.data_offset as usize), len) };
        Port { port: io.port, out: u32::from(io.direction) == KVM_EXIT_IO_OUT, width, data }
    }

    fn mmio(&mut self) -> Mmio<'_> {
        // SAFETY: the exit reason says that `mmio` is the valid field of the union; the kernel does
        // not touch it outside KVM_RUN, and the reference borrows `self`.
        let mmio = unsafe { &mut (*self.run.as_ptr()).__bindgen_anon_1.mmio };
        let len = (mmio.len as usize).min(mmio.data.len());
        let (at, write) = (GuestAddress(mmio.phys_addr), mmio.is_write != 0);
        Mmio { at, write, data: &mut mmio.data[..len] }
    }

    fn internal_error(&self) -> FaultKind {
        // SAFETY: the exit reason says that `internal` is valid, and for this suberror
        // `emulation_failure`, which is `internal` with names for its data words. All are plain
        // integers.
        let error = unsafe { (*self.run.as_ptr()).__bindgen_anon_1.emulation_failure };
        if error.suberror != KVM_INTERNAL_ERROR_EMULATION {
            return FaultKind::Other(format!("KVM internal error {}", error.suberror));
        }
        let flag = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
        if error.ndata < 3 || error.flags & flag == 0 {
            return FaultKind::Emulation(Vec::new());
        }
        // SAFETY: the flag says that the kernel filled these bytes in.
        let code = unsafe { error.__bindgen_anon_1.__bindgen_anon_1 };
        let len = usize::from(code.insn_size).min(code.insn_bytes.len());
        FaultKind::Emulation(code.insn_bytes[..len].to_vec())
    }

    fn entry_failed(&self) -> FaultKind {
        // SAFETY: the exit reason says that `fail_entry` is the valid field of the union.
        let entry = unsafe { (*self.run.as_ptr()).__bindgen_anon_1.fail_entry };
        FaultKind::EntryFailed(entry.hardware_entry_failure_reason)
    }

    fn system_event(&self) -> End {
        // SAFETY: the exit reason says that `system_event` is the valid field of the union.
        match unsafe { (*self.run.as_ptr()).__bindgen_anon_1.system_event.type_ } {
            KVM_SYSTEM_EVENT_SHUTDOWN => End::PowerOff,
            KVM_SYSTEM_EVENT_RESET => End::Reset,
            other => End::Fault(FaultKind::Other(format!("KVM system event {other}"))),
        }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: we mapped these bytes; kickers were told to stop using the exit flag before
        // (`KickTarget::close`).
        let unmapped = unsafe { rustix::mm::munmap(self.run.as_ptr().cast(), self.size) };
        if let Err(error) = unmapped {
            log::error!("unmapping a vCPU's run page: {error}");
        }
    }
}
