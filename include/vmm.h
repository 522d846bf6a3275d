/*
 * vmm: an embeddable virtual machine monitor.
 *
 * Link with `pkg-config --cflags --libs vmm`. Linux on x86-64.
 *
 * A machine runs a kernel, or bare code, with the devices it is given:
 *
 *     vmm_config *config = vmm_config_new();
 *     vmm_machine *machine;
 *     vmm_outcome outcome;
 *     vmm_error *error;
 *
 *     vmm_config_set_memory(config, 256 << 20);
 *     vmm_config_boot_linux(config, "vmlinuz", "initrd.img", "console=ttyS0");
 *     vmm_config_add_serial(config, 0, 1);
 *     if (vmm_machine_new(config, &machine, &error) != VMM_STATUS_OK
 *         || vmm_machine_run(machine, &outcome, &error) != VMM_STATUS_OK) {
 *         fprintf(stderr, "%s\n", vmm_error_message(error));
 *         vmm_error_free(error);
 *     } else {
 *         printf("the guest ended: %s\n", outcome.text);
 *     }
 *     vmm_machine_free(machine);
 *     vmm_config_free(config);
 *
 * A sandbox runs one static Linux program, or calls its functions, without a kernel: see
 * vmm_sandbox_config_program. What either is made of comes before it here: errors, the probe; descriptions
 * of machines, what they boot, their devices, disks, consoles; machines; sandboxes, their snapshots, pools.
 *
 * Rules that hold for all of it
 *
 * Objects.   Each has a type of its own and a function that frees it; NULL is nothing to free. What a
 *            function gives through a pointer to a pointer is the caller's to free. An object is freed
 *            once, and not used afterwards. Texts that a function returns as `const char *` belong to the
 *            object they were asked of and live as long as it does.
 * Errors.    What can fail returns a vmm_status, and fills `*error` if `error` is not NULL: with NULL on
 *            success, else with an error that the caller frees. Passing NULL for an object, or a value that
 *            is out of range, is an error that names it; nothing is undefined but pointers that are wild.
 *            Setters of configurations do not fail: what was wrong is told when the object is made of it.
 * Threads.   Every function may be called from any thread, several at once. Where an object can be used by
 *            one at a time, the second call fails with VMM_STATUS_WRONG_STATE. The library starts no thread
 *            but those that vmm_machine_run, vmm_machine_start, vmm_pool_new, vmm_vm_cache_new and disks say.
 *            It prints nothing and never ends the process.
 * Callbacks. Come with a `user` pointer that is passed as it is, and with `drop`, which is called exactly
 *            once when the library is done with `user`; NULL if there is nothing to do. No function of this
 *            library may be called from one, but those whose text says so; the others answer
 *            VMM_STATUS_IN_CALLBACK or VMM_STATUS_WRONG_STATE.
 * Structs.   Those that begin with `struct_size` have it set to their sizeof by the caller; whatever is 0 or
 *            NULL beside it is as if it were not there. New members come at their end, so that a program
 *            goes on working with a later library: name them, as in {.struct_size = sizeof ops, .read = f}.
 * Memory.    What is passed in is copied before the function returns. Descriptors are duplicated: the
 *            caller's own stays the caller's.
 * Text.      Ends in NUL and is UTF-8, but for paths, which are bytes. Text is given back as snprintf does:
 *            as much as fits, always with NUL; the function returns the whole length in bytes.
 * fork.      In a child of fork() every call fails with VMM_STATUS_WRONG_PROCESS; freeing is possible.
 */


#ifndef VMM_H
#define VMM_H

/* Made from vmm-capi/src by `cargo test -p vmm-capi --test header`; not edited by hand. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The version of the interface this header describes. It grows when something is added; the
// soname changes when something is taken away.
#define VMM_ABI 3

// For a place that the board chooses.
#define VMM_ANYWHERE UINT64_MAX

// A device's answer: the guest goes on.
#define VMM_FLOW_CONTINUE 0

// A device's answer: the machine resets.
#define VMM_FLOW_RESET 1

// A device's answer: it has failed; the run ends with VMM_STATUS_POISONED and its name.
#define VMM_FLOW_FAIL 2

// A device's answer: the machine powers off. The code is added, 0 to 255.
#define VMM_FLOW_POWER_OFF 256

// For `wake`: the driver may have added buffers, to any queue.
#define VMM_WAKE_QUEUES -1

// For vmm_pool_take: waits until there is one.
#define VMM_FOREVER UINT64_MAX

// What came of a call. Numbers never change; new ones may come.
typedef enum {
  // It was done.
  VMM_STATUS_OK = 0,
  // A setting is outside what the host or the library supports, or an argument is NULL.
  VMM_STATUS_BAD_CONFIG = 1,
  // A guest image is malformed or does not fit.
  VMM_STATUS_BAD_IMAGE = 2,
  // An address range is not memory of the guest.
  VMM_STATUS_GUEST_MEMORY = 3,
  // The host's operating system refused; vmm_error_os has its number.
  VMM_STATUS_HOST = 4,
  // The call is not possible from inside a callback.
  VMM_STATUS_IN_CALLBACK = 5,
  // Saved state does not fit this host or machine.
  VMM_STATUS_INCOMPATIBLE = 6,
  // A defect of the library.
  VMM_STATUS_INTERNAL = 7,
  // A signal that is not the library's interrupted the call; nothing is lost, call again.
  VMM_STATUS_INTERRUPTED = 8,
  // No hypervisor can be used on this host.
  VMM_STATUS_NO_HYPERVISOR = 9,
  // The named thing does not exist.
  VMM_STATUS_NOT_FOUND = 10,
  // Something failed in the middle and can no longer be used.
  VMM_STATUS_POISONED = 11,
  // A snapshot or saved record is malformed.
  VMM_STATUS_SNAPSHOT = 12,
  // The back end cannot do this.
  VMM_STATUS_UNSUPPORTED = 13,
  // The object belongs to the process that made it, not to its child after fork().
  VMM_STATUS_WRONG_PROCESS = 14,
  // The object is not in a state that allows the call.
  VMM_STATUS_WRONG_STATE = 15,
} vmm_status;

// The kinds of /dev/kvm.
typedef enum {
  // None that can be used: guests run on the CPU in software.
  VMM_KVM_KIND_NONE = 0,
  // Programs run natively; kernels are emulated by the host's kernel, slowly and in part.
  VMM_KVM_KIND_USER_MODE = 1,
  // All guests run natively.
  VMM_KVM_KIND_WHOLE = 2,
} vmm_kvm_kind;

// A way to boot an image.
typedef enum {
  // None that this library knows.
  VMM_BOOT_NONE = 0,
  // vmm_config_boot_linux.
  VMM_BOOT_LINUX = 1,
  // vmm_config_boot_pvh.
  VMM_BOOT_PVH = 2,
  // vmm_config_boot_multiboot.
  VMM_BOOT_MULTIBOOT = 3,
  // vmm_config_boot_elf64.
  VMM_BOOT_ELF64 = 4,
} vmm_boot;

// How a run ended.
typedef enum {
  // A machine: a vCPU cannot go on.
  VMM_ENDING_FAULT = 1,
  // A machine without interrupt controllers: the guest executed HLT; a further run goes on.
  VMM_ENDING_HALTED = 2,
  // A machine: the guest ended itself, with `code`.
  VMM_ENDING_POWER_OFF = 3,
  // A machine: the guest asked for a reset, which vmm_machine_reset does.
  VMM_ENDING_RESET = 4,
  // A machine: vmm_handle_stop was called.
  VMM_ENDING_STOPPED = 5,
  // A sandbox: the program has exited, with the status `code`, 0 to 255.
  VMM_ENDING_EXITED = 6,
  // A sandbox: the program was stopped; `code` is a vmm_cause.
  VMM_ENDING_KILLED = 7,
  // A sandbox: the program says that it is ready to be called.
  VMM_ENDING_READY = 8,
} vmm_ending;

// What happened to a machine.
typedef enum {
  // Nothing since the last time.
  VMM_EVENT_NONE = 0,
  // A run ended; the outcome says how.
  VMM_EVENT_ENDED = 1,
  // A pause that was asked for is complete.
  VMM_EVENT_PAUSED = 2,
} vmm_event;

// What a machine is doing.
typedef enum {
  // There will be no further run: it ended, was stopped, failed, or is gone.
  VMM_MACHINE_STATE_ENDED = 0,
  // Nothing of it runs, until vmm_handle_resume; a run waits.
  VMM_MACHINE_STATE_PAUSED = 1,
  // It can be run.
  VMM_MACHINE_STATE_READY = 2,
  // It is being run.
  VMM_MACHINE_STATE_RUNNING = 3,
} vmm_machine_state;

// Kinds of obstacles. Numbers never change; new ones may come.
typedef enum {
  // Another, which the text tells.
  VMM_OBSTACLE_KIND_OTHER = 0,
  // The program was granted a directory of the host at this path, and is not now, or may only
  // read it now, or finds one where its own files were.
  VMM_OBSTACLE_KIND_DIRECTORY = 1,
  // It may have seen this feature of the processor, which is not to be had here.
  VMM_OBSTACLE_KIND_FEATURE = 2,
  // It could call this function of the host, which was not given.
  VMM_OBSTACLE_KIND_FUNCTION = 3,
  // It has something in these registers, which are not to be had here, or lie at another place.
  VMM_OBSTACLE_KIND_REGISTERS = 4,
} vmm_obstacle_kind;

// What a sandbox can do next.
typedef enum {
  // It was made and not started.
  VMM_SANDBOX_STATE_NEW = 0,
  // It can be called.
  VMM_SANDBOX_STATE_READY = 1,
  // It has exited.
  VMM_SANDBOX_STATE_EXITED = 2,
  // It was stopped in the middle: what it has in memory is in no defined state.
  VMM_SANDBOX_STATE_POISONED = 3,
  // The host could not go on with it.
  VMM_SANDBOX_STATE_UNRECOVERABLE = 4,
} vmm_sandbox_state;

// How grave a message is.
typedef enum {
  // Nothing at all.
  VMM_LOG_LEVEL_OFF = 0,
  // Something is lost.
  VMM_LOG_LEVEL_ERROR = 1,
  // Something is not as it should be.
  VMM_LOG_LEVEL_WARN = 2,
  // What may be good to know.
  VMM_LOG_LEVEL_INFO = 3,
  // For who looks for a mistake.
  VMM_LOG_LEVEL_DEBUG = 4,
  // Everything.
  VMM_LOG_LEVEL_TRACE = 5,
} vmm_log_level;

// Why a program was stopped in the middle.
typedef enum {
  // Another, which the text tells.
  VMM_CAUSE_OTHER = 0,
  // vmm_canceller_cancel was called.
  VMM_CAUSE_CANCELLED = 1,
  // It has used up its processor time.
  VMM_CAUSE_CPU_TIME = 2,
  // It did what no program may: an exception of the processor.
  VMM_CAUSE_FAULT = 3,
  // A function of the host panicked.
  VMM_CAUSE_HOST_FUNCTION = 4,
  // It has written as much as it may.
  VMM_CAUSE_OUTPUT = 5,
  // It sent itself a signal, as abort() does.
  VMM_CAUSE_SIGNAL = 6,
  // It took longer than it may.
  VMM_CAUSE_TIMED_OUT = 7,
  // The function of vmm_sandbox_config_set_interruptible wanted it.
  VMM_CAUSE_INTERRUPTED = 8,
} vmm_cause;

// What a vmm_value is.
typedef enum {
  // Nothing: C's void.
  VMM_KIND_NOTHING = 0,
  // `integer`: integers and pointers of 64 bits.
  VMM_KIND_INT64 = 1,
  // `number`: double.
  VMM_KIND_DOUBLE = 2,
  // `data` and `size`. As an argument two: `const void *` and `size_t`, of a copy.
  VMM_KIND_BYTES = 3,
  // `integer`: bool.
  VMM_KIND_BOOL = 4,
  // `integer`: integers of 32 bits, of either sign.
  VMM_KIND_INT32 = 5,
  // `number`: float.
  VMM_KIND_FLOAT = 6,
  // `data`, text that ends in NUL. As an argument `const char *`, of a copy.
  VMM_KIND_TEXT = 7,
  // `data` and `size`. Only as an argument: two, `void *` and `size_t`, of a copy that is copied
  // back to `data` when the function has returned.
  VMM_KIND_BUFFER = 8,
} vmm_kind;

// Stops a sandbox from elsewhere. It may outlive the sandbox.
typedef struct vmm_canceller vmm_canceller;

// A chain of buffers that the driver lends the device: first those to be read, then those to be
// written. Whoever popped it completes it once, on any thread; one thread uses it at a time.
typedef struct vmm_chain vmm_chain;

// The description of a machine. Memory and something to boot must be given; the rest has defaults:
// the best back end of this host, one vCPU, a PC's interrupt controllers, no devices.
typedef struct vmm_config vmm_config;

// A console over virtio, which Linux calls /dev/hvc0, with named ports beside it. It is given to one
// machine; then it changes what the machine has.
typedef struct vmm_console vmm_console;

// A device of the caller's own.
typedef struct vmm_device vmm_device;

// A disk, which guests find as a virtio block device. It is made, described by setters and given to
// one machine; then it tells and changes what the machine has.
typedef struct vmm_disk vmm_disk;

// What went wrong: a status, and a message that names the thing and the value.
typedef struct vmm_error vmm_error;

// The exits of a machine since it was made, by reason and by device, and what its virtio devices
// did.
typedef struct vmm_exits vmm_exits;

// Stops and pauses a machine, from any thread. It does not keep the machine.
typedef struct vmm_handle vmm_handle;

// What an image's headers say.
typedef struct vmm_inspection vmm_inspection;

// What a device is lent while it is woken; of use to that thread, as long as `wake` lasts.
typedef struct vmm_io vmm_io;

// A virtual machine.
typedef struct vmm_machine vmm_machine;

// All that stands in the way of a snapshot in a file.
typedef struct vmm_obstacles vmm_obstacles;

// The host's end of one port of a console. It serves one port, and is freed afterwards.
typedef struct vmm_peer vmm_peer;

// Sandboxes that are forked of one snapshot before they are asked for, and reset when they come
// back. Any thread may use it, several at once.
typedef struct vmm_pool vmm_pool;

// What was found out about this host.
typedef struct vmm_report vmm_report;

// What a function of the host gives; nothing unless it is said.
typedef struct vmm_result vmm_result;

// One Linux program in a micro-VM without a kernel. One thread uses it at a time.
typedef struct vmm_sandbox vmm_sandbox;

// The description of a sandbox. Without more than the program: the best back end of this host, 64
// MiB of memory, no arguments but the program's name, an empty environment, nothing of the host to
// be seen, input empty, output captured, no limit of time.
typedef struct vmm_sandbox_config vmm_sandbox_config;

// What a machine was at one moment, but for its memory: bytes, to be kept or sent anywhere.
typedef struct vmm_saved vmm_saved;

// A sandbox as it was at one moment. Nothing changes it any more; any thread may use it, several at
// once; it outlives the sandbox.
typedef struct vmm_snapshot vmm_snapshot;

// A range of a guest's memory where it lies in this process. It keeps the memory, also when the
// machine is freed.
typedef struct vmm_view vmm_view;

// A virtio device of the caller's own.
typedef struct vmm_virtio vmm_virtio;

// Keeps the VMs of sandboxes that are freed, for forks to come: to make and to close a VM takes most
// of the time of a fork's life. Nothing of the program that was in one stays: its memory is mapped
// anew, and every register is set, before another is. Any thread may use it, several at once.
typedef struct vmm_vm_cache vmm_vm_cache;

// What a device does. Functions may be NULL: reads then give all ones, writes do nothing.
//
// They are called on the threads that run vCPUs, several at once if the machine has several vCPUs.
// They must not block. `window` counts the device's windows in the order they were asked for;
// `offset` is from its start; 1 to 8 bytes, little-endian, never beyond its end.
typedef struct {
  // sizeof(vmm_device_ops).
  size_t struct_size;
  // The guest reads: fills `data`, which comes with all ones. Gives a VMM_FLOW_ value.
  int32_t (*read)(void *user, uint32_t window, uint64_t offset, uint8_t *data, size_t size);
  // The guest writes. Gives a VMM_FLOW_ value.
  int32_t (*write)(void *user, uint32_t window, uint64_t offset, const uint8_t *data, size_t size);
  // The machine resets: back to power-on. Not called during accesses.
  void (*reset)(void *user);
  // The library is done with `user`.
  void (*drop)(void *user);
  // For vmm_machine_save: tells by vmm_result_bytes what a device like this one needs to go on
  // where this one stands; nothing if it needs nothing. Gives 0, or anything else if it cannot be
  // saved now. Not called during accesses. NULL for a device that cannot be saved.
  int32_t (*save)(void *user, vmm_result *state);
  // For vmm_machine_restore, after `reset`: becomes what was saved, which may come from elsewhere
  // and is not to be trusted. Gives 0, or anything else for what it does not take. Not called
  // during accesses.
  int32_t (*restore)(void *user, const uint8_t *state, size_t size);
} vmm_device_ops;

// What a disk of the caller's own does. Each function gives 0, or the errno that says why not; the
// guest gets an I/O error.
//
// They are called on threads of the disk's, one for each queue, several at once, never on one that
// runs a guest: they may take their time. What they are asked for is within the disk and whole
// sectors of 512 bytes.
typedef struct {
  // sizeof(vmm_disk_ops).
  size_t struct_size;
  // Fills `data` with what is at `at`. Must not be NULL.
  int32_t (*read)(void *user, uint64_t at, uint8_t *data, size_t size);
  // Writes `data` to `at`; NULL for a disk that is only read.
  int32_t (*write)(void *user, uint64_t at, const uint8_t *data, size_t size);
  // Makes what was written durable; NULL if there is nothing to do.
  int32_t (*flush)(void *user);
  // Nobody needs these bytes any more; NULL if that is no news.
  int32_t (*discard)(void *user, uint64_t at, uint64_t size);
  // Makes the disk so long, on the thread of vmm_disk_resize; NULL if it has one size for ever.
  int32_t (*resize)(void *user, uint64_t size);
  // The library is done with `user`.
  void (*drop)(void *user);
} vmm_disk_ops;

// What a guest has asked a disk for.
typedef struct {
  // sizeof(vmm_disk_statistics), set by the caller.
  size_t struct_size;
  // Reads that succeeded.
  uint64_t reads;
  // Their bytes.
  uint64_t read_bytes;
  // Writes that succeeded.
  uint64_t writes;
  // Their bytes.
  uint64_t written_bytes;
  // Flushes that succeeded.
  uint64_t flushes;
  // Discards and writes of zeros that succeeded.
  uint64_t discards;
  // Requests that failed, or that the disk cannot do.
  uint64_t errors;
} vmm_disk_statistics;

// What a peer of the caller's own does: called on a thread of the machine, one call at a time. It
// must not block.
typedef struct {
  // sizeof(vmm_peer_ops).
  size_t struct_size;
  // Takes some of what the guest sends; gives how many bytes. -EAGAIN if there is no room: the
  // rest comes again when the descriptor `writable` is ready, and is lost without one. After
  // another negative errno all output is dropped. Must not be NULL.
  ptrdiff_t (*send)(void *user, const uint8_t *data, size_t size);
  // Gives some of what the guest is to receive: how many bytes, 0 if there will never be more,
  // -EAGAIN if there is nothing now, until the descriptor `readable` is ready. NULL if there is
  // never any.
  ptrdiff_t (*receive)(void *user, uint8_t *data, size_t size);
  // A program in the guest has opened the port, or closed it; known of named ports only.
  void (*opened)(void *user, bool is_open);
  // The library is done with `user`.
  void (*drop)(void *user);
} vmm_peer_ops;

// What a virtio device does. Functions may be NULL, but for `wake`.
//
// They are called one at a time and must not block: `wake` on a thread of the machine, the others
// on those that run vCPUs. What takes its time is done elsewhere, with the vmm_chain, which any
// thread may complete.
typedef struct {
  // sizeof(vmm_virtio_ops).
  size_t struct_size;
  // There is something to do: `source` is VMM_WAKE_QUEUES, or the number of a descriptor of
  // vmm_virtio_add_source that can be read. Pops chains from `io` until there are no more. Gives
  // 0, or anything else if the device can never work again: the run ends with
  // VMM_STATUS_POISONED. A driver's mistake is no such thing: vmm_io_need_reset.
  int32_t (*wake)(void *user, vmm_io *io, int32_t source);
  // Copies configuration space from `offset` on to `data`, which comes filled with zeros.
  void (*read_config)(void *user, uint64_t offset, uint8_t *data, size_t size);
  // The driver writes to configuration space.
  void (*write_config)(void *user, uint64_t offset, const uint8_t *data, size_t size);
  // The driver, or the machine, resets the device: chains that it keeps are void. It frees them.
  void (*reset)(void *user);
  // The machine is about to be paused: the device completes what chains it keeps for something
  // that may never come.
  void (*drain)(void *user);
  // The library is done with `user`.
  void (*drop)(void *user);
  // Saves what a device like this one needs to go on where this one stood: as
  // vmm_device_ops.save, after `drain`. NULL for one that knows nothing but its queues, which the
  // library saves.
  int32_t (*save)(void *user, vmm_result *state);
  // Becomes what was saved: as vmm_device_ops.restore.
  int32_t (*restore)(void *user, const uint8_t *state, size_t size);
} vmm_virtio_ops;

// How a run ended, for programs and for readers.
typedef struct {
  // How.
  vmm_ending ending;
  // A number whose meaning depends on that; else 0.
  int32_t code;
  // The same in words, such as "fault: triple fault at rip 0x10004"; cut if it is longer.
  char text[248];
} vmm_outcome;

// The general-purpose registers of x86-64.
typedef struct {
  uint64_t rax;
  uint64_t rbx;
  uint64_t rcx;
  uint64_t rdx;
  uint64_t rsi;
  uint64_t rdi;
  uint64_t rsp;
  uint64_t rbp;
  uint64_t r8;
  uint64_t r9;
  uint64_t r10;
  uint64_t r11;
  uint64_t r12;
  uint64_t r13;
  uint64_t r14;
  uint64_t r15;
  uint64_t rip;
  uint64_t rflags;
} vmm_regs;

// One line of a vmm_exits.
typedef struct {
  // A device's name, or a reason: "mmio read", "mmio write", "port in", "port out", "return".
  const char *name;
  // Whether it is a device's.
  bool is_device;
  // How many exits.
  uint64_t exits;
  // Nanoseconds of the host's time, if they are measured.
  uint64_t ns;
} vmm_exit_count;

// What has passed between a virtio device and its driver.
typedef struct {
  // The device's name.
  const char *name;
  // How often the driver rang.
  uint64_t notifications;
  // How often the device interrupted.
  uint64_t interrupts;
  // Chains of buffers that the device took.
  uint64_t requests;
  // Bytes in those of their buffers that the device reads.
  uint64_t read_bytes;
  // Bytes that the device told the driver it has written.
  uint64_t written_bytes;
  // Chains that failed (vmm_chain_fail), and mistakes of the driver's that stopped the device.
  uint64_t errors;
} vmm_traffic;

// Whether the program may go on: 0 if it may.
typedef int32_t (*vmm_ask_fn)(void *user);

// Called when the library is done with `user`.
typedef void (*vmm_drop_fn)(void *user);

// One argument or result. vmm_int64 and its like make one.
typedef struct {
  // One of vmm_kind.
  int32_t kind;
  // Of VMM_KIND_INT64, VMM_KIND_INT32, VMM_KIND_BOOL.
  int64_t integer;
  // Of VMM_KIND_DOUBLE, VMM_KIND_FLOAT.
  double number;
  // Of VMM_KIND_BYTES, VMM_KIND_TEXT, VMM_KIND_BUFFER.
  void *data;
  // Bytes at `data`.
  size_t size;
} vmm_value;

// A function of the host that a program can call. It runs on the thread that runs the sandbox; of
// sandboxes that run at the same time and share it, on several at once.
// `arguments` are VMM_KIND_INT64, VMM_KIND_DOUBLE, VMM_KIND_BYTES or VMM_KIND_NOTHING and live as
// long as the call; `result` is told by vmm_result_int64 and its like, else it is nothing. Gives 0,
// or anything else for arguments that it does not take: the program gets EINVAL.
typedef int32_t (*vmm_host_fn)(void *user,
                               const vmm_value *arguments,
                               size_t count,
                               vmm_result *result);

// A reason why a snapshot in a file would not run as it did where it was made.
typedef struct {
  // What kind of thing is missing.
  vmm_obstacle_kind kind;
  // Which one: a path, a feature, a function, or bits of XCR0 such as "0x200" for registers.
  const char *name;
  // The whole reason in one line, such as `no host function "points" was given`.
  const char *text;
} vmm_obstacle;

// What a program has used and asked for.
typedef struct {
  // sizeof(vmm_sandbox_statistics), set by the caller.
  size_t struct_size;
  // Bytes of memory in use, page tables included.
  uint64_t memory;
  // System calls that were answered.
  uint64_t system_calls;
} vmm_sandbox_statistics;

// What a pool has, and has done.
typedef struct {
  // sizeof(vmm_pool_statistics), set by the caller.
  size_t struct_size;
  // Sandboxes that can be taken at once.
  uint64_t ready;
  // Those that are lent out.
  uint64_t in_use;
  // How many were forked.
  uint64_t forks;
  // How many came back and were reset.
  uint64_t resets;
  // How many came back and could not be reset.
  uint64_t replaced;
  // How often somebody had to wait for one.
  uint64_t waits;
} vmm_pool_statistics;

// What a cache has, and has done; all zeros in a child of fork().
typedef struct {
  // sizeof(vmm_vm_cache_statistics), set by the caller.
  size_t struct_size;
  // VMs that can be taken.
  uint64_t idle;
  // How many were taken.
  uint64_t reused;
  // How many came back to a cache that was full, and were closed.
  uint64_t closed;
} vmm_vm_cache_statistics;

// Takes one message, which ends with the call; `target` is the part of the library that has it, such
// as "vmm_devices::serial". Called on any thread, on several at once, with locks held.
typedef void (*vmm_log_fn)(void *user, vmm_log_level level, const char *target, const char *message);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The library's version, such as "0.1.0".
const char *vmm_version(void);

// Whether the library that is loaded has everything of the header a program was compiled with:
// called as `vmm_abi_check(VMM_ABI)`.
bool vmm_abi_check(uint32_t abi);

// The status that the failed call returned; VMM_STATUS_OK for NULL.
vmm_status vmm_error_status(const vmm_error *error);

// One line that tells the whole story, such as "/dev/kvm: Permission denied (os error 13)"; lives
// as long as the error. Empty for NULL.
const char *vmm_error_message(const vmm_error *error);

// The operating system's error number (errno), or 0 if that was not the cause.
int32_t vmm_error_os(const vmm_error *error);

// Frees an error.
void vmm_error_free(vmm_error *error);

// Measures what this host can run; takes some 10 to 100 ms the first time, and is remembered. Freed with
// vmm_report_free.
//
//     if (vmm_probe(&report, NULL) == VMM_STATUS_OK)
//         puts(vmm_report_text(report));
vmm_status vmm_probe(vmm_report **report,
                     vmm_error **error);

// Which kind of /dev/kvm there is.
vmm_kvm_kind vmm_report_kvm(const vmm_report *report);

// The whole report in lines, with what could be done about what is missing.
const char *vmm_report_text(const vmm_report *report);

// Frees a report.
void vmm_report_free(vmm_report *report);

// A description without anything. Freed with vmm_config_free, also after a machine was made of it.
// NULL only if the library is broken; every other function takes that as an error.
vmm_config *vmm_config_new(void);

// Frees a description, with the devices that no machine has.
void vmm_config_free(vmm_config *config);

// What runs the vCPUs: "kvm", "soft" for the CPU in software, or "auto" for the best of this host,
// which is measured; that is the default.
void vmm_config_set_backend(vmm_config *config, const char *name);

// RAM of `bytes`, a multiple of 4096, zeroed; what passes 3 GiB continues at 4 GiB.
void vmm_config_set_memory(vmm_config *config, uint64_t bytes);

// The number of vCPUs; 1 unless said otherwise.
void vmm_config_set_vcpus(vmm_config *config, uint32_t count);

// Whether there are interrupt controllers; true unless said otherwise. Without them HLT ends the
// run.
void vmm_config_set_interrupts(vmm_config *config, bool there);

// A 16550 serial port (the first is COM1, I/O port 0x3f8): what the guest writes goes to the
// descriptor `output`, what comes from `input` goes to the guest. -1 for neither.
void vmm_config_add_serial(vmm_config *config, int32_t input, int32_t output);

// An MC146818 clock that has the host's time.
void vmm_config_add_rtc(vmm_config *config);

// The keyboard controller, as far as kernels reset the machine by it.
void vmm_config_add_i8042(vmm_config *config);

// I/O port 0xf4: a byte written there ends the machine, which powers off with that code.
void vmm_config_add_debug_exit(vmm_config *config);

// A device of the caller's own. The machine holds it too: it can be freed at once.
void vmm_config_add_device(vmm_config *config, vmm_device *device);

// A disk. It stays what tells of it: it is freed when the caller is done with it.
void vmm_config_add_disk(vmm_config *config, vmm_disk *disk);

// A console over virtio. It stays what changes it: it is freed when the caller is done with it.
void vmm_config_add_console(vmm_config *config, vmm_console *console);

// A source of random numbers, of the host's, by virtio: `per_second` bytes a second and `burst` at
// once after a rest; 0 and 0 for 1 MiB each.
void vmm_config_add_rng(vmm_config *config, uint64_t per_second, uint64_t burst);

// A virtio device of the caller's own. The machine holds it too: it can be freed at once.
void vmm_config_add_virtio(vmm_config *config, vmm_virtio *virtio);

// Has exits of the guest counted, for vmm_machine_exits; with `times` it is also measured how long
// the host worked on them, which reads the clock twice an exit.
void vmm_config_set_accounting(vmm_config *config, bool times);

// Makes the machine; its guest has executed nothing yet. A description makes one machine: it is
// empty afterwards, also if this failed, and still to be freed. Fills `*machine` with NULL if it
// fails.
//
// VMM_STATUS_BAD_CONFIG with the first setting that was wrong, is missing, or does not fit the others;
// VMM_STATUS_BAD_IMAGE with what is wrong with the image; VMM_STATUS_HOST with the file that cannot be
// opened, or if the host gives no VM or memory; VMM_STATUS_NO_HYPERVISOR if the back end that was named
// cannot be used here; VMM_STATUS_WRONG_STATE if a machine was made of it before, or another one has
// one of its devices.
vmm_status vmm_machine_new(vmm_config *config,
                           vmm_machine **machine,
                           vmm_error **error);

// Boots a Linux kernel, a bzImage or vmlinux, by its path. `initrd`, a path, and `cmdline` may be
// NULL.
void vmm_config_boot_linux(vmm_config *config,
                           const char *kernel,
                           const char *initrd,
                           const char *cmdline);

// Boots a kernel that can be entered by PVH, as Linux and many unikernels can. `initrd`, a path,
// and `cmdline` may be NULL.
void vmm_config_boot_pvh(vmm_config *config,
                         const char *kernel,
                         const char *initrd,
                         const char *cmdline);

// Boots a kernel by Multiboot 1, by its path. `cmdline` may be NULL.
void vmm_config_boot_multiboot(vmm_config *config, const char *kernel, const char *cmdline);

// One more file, by its path, for the kernel of vmm_config_boot_multiboot, with a command line of
// its own, which may be NULL.
void vmm_config_add_module(vmm_config *config, const char *file, const char *cmdline);

// Boots a plain 64-bit ELF program without a kernel, by its path: entered in 64-bit mode with
// memory mapped at its own addresses. `cmdline` may be NULL.
void vmm_config_boot_elf64(vmm_config *config, const char *program, const char *cmdline);

// Boots instructions as they are, in 64-bit mode, at guest address 0x10000.
void vmm_config_boot_long_mode(vmm_config *config, const uint8_t *image, size_t size);

// Boots instructions as they are, in 16-bit real mode, at guest address 0x7c00.
void vmm_config_boot_real_mode(vmm_config *config, const uint8_t *image, size_t size);

// Looks at the headers of the image at this path: how can it be booted? VMM_STATUS_HOST or
// VMM_STATUS_BAD_IMAGE if it cannot be read at all. Freed with vmm_inspection_free.
//
//     if (vmm_inspect("image", &inspection, NULL) == VMM_STATUS_OK
//         && vmm_inspection_best(inspection) == VMM_BOOT_NONE)
//         puts(vmm_inspection_text(inspection));   // Why it is none.
vmm_status vmm_inspect(const char *image, vmm_inspection **inspection, vmm_error **error);

// The best way to boot it.
vmm_boot vmm_inspection_best(const vmm_inspection *inspection);

// Each way, and why it is one or is none, in lines.
const char *vmm_inspection_text(const vmm_inspection *inspection);

// Frees an inspection.
void vmm_inspection_free(vmm_inspection *inspection);

// Makes a device of the caller's functions; `name` is what errors and statistics call it. If this
// fails, with VMM_STATUS_BAD_CONFIG, `user` stays the caller's: `drop` is not called.
//
//     static int32_t count(void *user, uint32_t window, uint64_t offset, uint8_t *data, size_t size)
//     {
//         data[0] = (uint8_t)++*(int *)user;
//         return VMM_FLOW_CONTINUE;
//     }
//     ...
//     static const vmm_device_ops ops = {.struct_size = sizeof ops, .read = count};
//     vmm_device_new("counter", &ops, &counter, &device, NULL);
//     vmm_device_add_ports(device, 0x50, 1, NULL);
//     vmm_config_add_device(config, device);
//     vmm_device_free(device);                     // The description has it now.
vmm_status vmm_device_new(const char *name,
                          const vmm_device_ops *ops,
                          void *user,
                          vmm_device **device,
                          vmm_error **error);

// Frees the caller's hold on a device; a machine that has it keeps it.
void vmm_device_free(vmm_device *device);

// The device answers `count` I/O ports from `start` on: one window of it. VMM_STATUS_WRONG_STATE if a
// machine has it; that ports are taken vmm_machine_new says.
vmm_status vmm_device_add_ports(vmm_device *device,
                                uint16_t start,
                                uint16_t count,
                                vmm_error **error);

// The device answers `size` bytes of physical addresses from `start` on: one window of it;
// VMM_ANYWHERE for where there is room. Fails as vmm_device_add_ports.
vmm_status vmm_device_add_mmio(vmm_device *device,
                               uint64_t start,
                               uint64_t size,
                               vmm_error **error);

// The device gets an interrupt line of its own, before a machine has it.
vmm_status vmm_device_add_irq(vmm_device *device, vmm_error **error);

// Interrupts the guest once, by the line of the device; may be called from a callback.
// VMM_STATUS_WRONG_STATE if it has none, or is in no machine yet.
vmm_status vmm_device_interrupt(const vmm_device *device, vmm_error **error);

// The raw image at this path, to be read and written by nobody else meanwhile; its format is never
// guessed. VMM_STATUS_HOST if it cannot be opened; VMM_STATUS_BAD_CONFIG if another process has it, or
// it is not whole sectors of 512 bytes. Freed with vmm_disk_free, as those that follow.
//
//     vmm_disk_open("root.img", &disk, NULL);
//     vmm_disk_set_queues(disk, 2);
//     vmm_config_add_disk(config, disk);
//     vmm_disk_free(disk);                         // Or kept, for vmm_disk_get_statistics.
vmm_status vmm_disk_open(const char *path,
                         vmm_disk **disk,
                         vmm_error **error);

// The raw image at this path, which several may read. Fails as vmm_disk_open.
vmm_status vmm_disk_open_read_only(const char *path, vmm_disk **disk, vmm_error **error);

// `bytes` of this process's memory, zeros at first: whole sectors of 512 bytes, else
// VMM_STATUS_BAD_CONFIG.
vmm_status vmm_disk_memory(uint64_t bytes, vmm_disk **disk, vmm_error **error);

// The raw image at `base`, which is only read, and what is written instead: in a file without a
// name that is gone with the disk. Fails as vmm_disk_open.
vmm_status vmm_disk_overlay_temporary(const char *base, vmm_disk **disk, vmm_error **error);

// The same with a new file at `path`, which keeps what was written: vmm_disk_overlay_open goes on
// with it. The base must stay as it is. VMM_STATUS_HOST if there is a file.
vmm_status vmm_disk_overlay_create(const char *path,
                                   const char *base,
                                   vmm_disk **disk,
                                   vmm_error **error);

// The overlay of `base` that was kept at `path`. VMM_STATUS_BAD_IMAGE if that is none,
// VMM_STATUS_INCOMPATIBLE if it is one of a disk of another length.
vmm_status vmm_disk_overlay_open(const char *path,
                                 const char *base,
                                 vmm_disk **disk,
                                 vmm_error **error);

// Makes a disk of `size` bytes, whole sectors of 512, of the caller's functions. If this fails,
// with VMM_STATUS_BAD_CONFIG, `user` stays the caller's: `drop` is not called.
//
//     static const vmm_disk_ops ops = {.struct_size = sizeof ops, .read = fetch, .write = store};
//     vmm_disk_new(&ops, 1 << 30, &connection, &disk, NULL);
vmm_status vmm_disk_new(const vmm_disk_ops *ops,
                        uint64_t size,
                        void *user,
                        vmm_disk **disk,
                        vmm_error **error);

// Frees the caller's hold on a disk; a machine that has it keeps it.
void vmm_disk_free(vmm_disk *disk);

// The guest can write nothing.
void vmm_disk_set_read_only(vmm_disk *disk);

// What the guest finds as the disk's serial number: at most 20 bytes.
void vmm_disk_set_serial(vmm_disk *disk, const char *serial);

// How many queues it has, 1 to 64, each with a thread: as many processors of the guest need not
// wait for each other. 1 unless said otherwise.
void vmm_disk_set_queues(vmm_disk *disk, uint32_t count);

// The guest reads and writes at most `per_second` bytes a second, and `burst` at once after a rest.
void vmm_disk_set_limit(vmm_disk *disk, uint64_t per_second, uint64_t burst);

// Its size in bytes; 0 for NULL.
uint64_t vmm_disk_size(const vmm_disk *disk);

// Makes the disk `size` bytes long, also while the guest runs, which is told. VMM_STATUS_UNSUPPORTED
// if it cannot be resized, VMM_STATUS_BAD_CONFIG if these are not whole sectors, VMM_STATUS_HOST with
// what the host, or the disk's function, says.
vmm_status vmm_disk_resize(vmm_disk *disk,
                           uint64_t size,
                           vmm_error **error);

// Fills `*statistics`, as much of it as its `struct_size` says.
vmm_status vmm_disk_get_statistics(const vmm_disk *disk,
                                   vmm_disk_statistics *statistics,
                                   vmm_error **error);

// What comes from the descriptor `input` goes to the guest, what the guest sends to `output`: a
// terminal, pipes, sockets, files. -1 for no input. Nobody else should use them. VMM_STATUS_HOST if
// they are not open. Freed with vmm_peer_free when a console has it.
vmm_status vmm_peer_stream(int32_t input, int32_t output, vmm_peer **peer, vmm_error **error);

// Makes a peer of the caller's functions. `readable` is a descriptor that can be read while
// `receive` has something to give, `writable` one that can be written when `send` has room; -1 for
// neither: without `readable` nothing is received. If this fails, `user` stays the caller's: `drop` is
// not called.
vmm_status vmm_peer_new(const vmm_peer_ops *ops,
                        int32_t readable,
                        int32_t writable,
                        void *user,
                        vmm_peer **peer,
                        vmm_error **error);

// Frees the caller's hold on a peer; a console that has it keeps it.
void vmm_peer_free(vmm_peer *peer);

// Makes a console with this peer at its other end. VMM_STATUS_WRONG_STATE if the peer serves another
// port.
//
//     vmm_peer_stream(0, 1, &peer, NULL);          // The terminal.
//     vmm_console_new(peer, &console, NULL);
//     vmm_peer_free(peer);
//     vmm_config_add_console(config, console);
//     vmm_console_free(console);
vmm_status vmm_console_new(vmm_peer *peer,
                           vmm_console **console,
                           vmm_error **error);

// Frees the caller's hold on a console; a machine that has it keeps it.
void vmm_console_free(vmm_console *console);

// Room for so many named ports, at most 30, before a machine has the console. Without this there is
// none.
void vmm_console_set_room(vmm_console *console, uint32_t ports);

// One more port, for which there is room; Linux has it as /dev/virtio-ports/NAME. Also while the
// guest runs, which is told. VMM_STATUS_BAD_CONFIG if the name is empty or the room is taken,
// VMM_STATUS_WRONG_STATE if the peer serves another port.
vmm_status vmm_console_add_port(vmm_console *console,
                                const char *name,
                                vmm_peer *peer,
                                vmm_error **error);

// How large it is, in characters; the guest is told, also while it runs.
vmm_status vmm_console_resize(vmm_console *console,
                              uint16_t columns,
                              uint16_t rows,
                              vmm_error **error);

// Makes a virtio device of the caller's functions; `name` is what errors call it, `id` its kind
// (Virtual I/O Device 1.2, section 5). If this fails, with VMM_STATUS_BAD_CONFIG, `user` stays the
// caller's: `drop` is not called.
//
//     static int32_t wake(void *user, vmm_io *io, int32_t source)
//     {
//         vmm_chain *chain;
//         while ((chain = vmm_io_pop(io, 0)) != NULL)
//             vmm_chain_complete(chain, (uint32_t)vmm_chain_write(chain, 0, "hello", 5));
//         return 0;
//     }
//     ...
//     static const vmm_virtio_ops ops = {.struct_size = sizeof ops, .wake = wake};
//     vmm_virtio_new("greeter", 42, &ops, NULL, &virtio, NULL);
//     vmm_virtio_add_queue(virtio, 64);
//     vmm_config_add_virtio(config, virtio);
//     vmm_virtio_free(virtio);
vmm_status vmm_virtio_new(const char *name,
                          uint32_t id,
                          const vmm_virtio_ops *ops,
                          void *user,
                          vmm_virtio **virtio,
                          vmm_error **error);

// Frees the caller's hold on a device; a machine that has it keeps it.
void vmm_virtio_free(vmm_virtio *virtio);

// One more queue, which can hold so many chains: a power of 2 up to 32768.
void vmm_virtio_add_queue(vmm_virtio *virtio, uint16_t size);

// The feature bits of this kind of device that it offers, 0 to 23 and 50 to 63; those of rings and
// transport are the library's.
void vmm_virtio_set_features(vmm_virtio *virtio, uint64_t features);

// One more descriptor that wakes the device when it can be read; they are numbered from 0 on.
// VMM_STATUS_WRONG_STATE if a machine has the device.
vmm_status vmm_virtio_add_source(vmm_virtio *virtio, int32_t fd, vmm_error **error);

// Takes the next chain that the driver has added to a queue; NULL if there is none. May only be
// called by `wake`, as all functions with a vmm_io.
vmm_chain *vmm_io_pop(vmm_io *io, uint32_t queue);

// The features that were negotiated; 0 before that.
uint64_t vmm_io_features(vmm_io *io);

// Tells the driver that configuration space has changed.
void vmm_io_config_changed(vmm_io *io);

// The driver has done what no driver may: nothing more is done for it until it resets the device.
// `why` is for the log.
void vmm_io_need_reset(vmm_io *io, const char *why);

// That source does not wake the device any more, until vmm_io_resume.
void vmm_io_hold(vmm_io *io, uint32_t source);

// That source wakes the device again.
void vmm_io_resume(vmm_io *io, uint32_t source);

// The queue it was popped from. Functions with a vmm_chain may be called from every callback.
uint32_t vmm_chain_queue(const vmm_chain *chain);

// How many bytes there are to be read.
uint64_t vmm_chain_readable(const vmm_chain *chain);

// How many bytes there are to be written.
uint64_t vmm_chain_writable(const vmm_chain *chain);

// Copies up to `size` of the bytes to be read, from the one numbered `at` on; gives how many. The
// guest may change them at any moment: what a decision depends on is read once.
size_t vmm_chain_read(const vmm_chain *chain, uint64_t at, void *data, size_t size);

// Copies `size` bytes to those to be written, from the one numbered `at` on, or as many as there is
// room for; gives how many.
size_t vmm_chain_write(vmm_chain *chain, uint64_t at, const void *data, size_t size);

// Whether the driver still waits for it: not after a reset.
bool vmm_chain_is_current(const vmm_chain *chain);

// Gives it back to the driver and frees it: the first `written` bytes of those to be written were
// written.
void vmm_chain_complete(vmm_chain *chain, uint32_t written);

// As vmm_chain_complete, of a request that the device could not do as it was asked; the driver is
// told by what was written, as its kind of device says. It counts as an error of the device.
void vmm_chain_fail(vmm_chain *chain, uint32_t written);

// Gives it back with nothing written, and frees it.
void vmm_chain_free(vmm_chain *chain);

// Stops a machine if it runs, and frees it: memory, descriptors, threads, devices. What a
// vmm_machine_run under way on another thread needs is freed when that has returned. Waits for the
// thread of vmm_machine_start, unless that is what calls it from a callback.
void vmm_machine_free(vmm_machine *machine);

// The back end that runs it, such as "kvm".
const char *vmm_machine_backend(const vmm_machine *machine);

// Why that one, such as "no KVM: /dev/kvm: No such file or directory".
const char *vmm_machine_backend_reason(const vmm_machine *machine);

// Runs the guest on the calling thread until it ends or is stopped. `outcome` may be NULL.
//
// Each further vCPU, and devices that watch descriptors, have a thread that ends before this
// returns. After VMM_ENDING_HALTED and VMM_STATUS_INTERRUPTED the guest can be run on; after every
// other ending it has ended, until vmm_machine_reset.
//
// VMM_STATUS_INTERRUPTED if a signal came that is not the library's; VMM_STATUS_POISONED with the
// name of a device that failed; VMM_STATUS_WRONG_STATE if it has ended or is being run.
vmm_status vmm_machine_run(vmm_machine *machine, vmm_outcome *outcome, vmm_error **error);

// Runs the guest on a thread of the library's, for programs with an event loop: what becomes of it
// is told by vmm_machine_event_fd and vmm_machine_next_event. Returns at once; fails as
// vmm_machine_run if the run cannot begin, and with VMM_STATUS_HOST if there is no thread to be had.
vmm_status vmm_machine_start(vmm_machine *machine,
                             vmm_error **error);

// Fills `*fd` with a descriptor that is readable while vmm_machine_next_event has something to
// give. It is the machine's: only to be polled, not read or closed.
//
//     struct pollfd waiting = {.events = POLLIN};
//     vmm_machine_event_fd(machine, &waiting.fd, NULL);
//     vmm_machine_start(machine, NULL);
//     do {
//         poll(&waiting, 1, -1);
//         status = vmm_machine_next_event(machine, &event, &outcome, &error);
//     } while (status == VMM_STATUS_OK && event != VMM_EVENT_ENDED);
vmm_status vmm_machine_event_fd(const vmm_machine *machine, int32_t *fd, vmm_error **error);

// Takes what happened since the last time; never waits. Fills `outcome`, which may be NULL, if a
// run ended; if it failed, the failure is this call's, with `*event` VMM_EVENT_ENDED.
//
// Only the newest thing is kept, and only while it is true.
vmm_status vmm_machine_next_event(vmm_machine *machine,
                                  vmm_event *event,
                                  vmm_outcome *outcome,
                                  vmm_error **error);

// Puts a machine that is not being run back to power-on, in place: memory zeroed, the image loaded
// anew, devices reset. Cheaper than another machine. VMM_STATUS_WRONG_STATE if it runs or was stopped.
vmm_status vmm_machine_reset(vmm_machine *machine,
                             vmm_error **error);

// What stops and pauses the machine from elsewhere. It may outlive the machine; NULL for NULL.
// May be called from a callback.
vmm_handle *vmm_machine_handle(const vmm_machine *machine);

// Frees a handle; nothing happens to the machine.
void vmm_handle_free(vmm_handle *handle);

// Another handle for the same machine; NULL for NULL.
vmm_handle *vmm_handle_clone(const vmm_handle *handle);

// Ends the machine: its run returns VMM_ENDING_STOPPED, typically within a millisecond. Never
// waits; may be called from a callback, and takes effect when that returns.
vmm_status vmm_handle_stop(const vmm_handle *handle, vmm_error **error);

// Pauses the machine: when this returns, no vCPU runs and no device is called until
// vmm_handle_resume. The run under way waits.
//
// VMM_STATUS_HOST with ETIMEDOUT if a device kept its thread for longer than `within_ns`
// nanoseconds: the machine goes on. VMM_STATUS_WRONG_STATE if it has ended, VMM_STATUS_IN_CALLBACK
// from one of its devices.
vmm_status vmm_handle_pause(const vmm_handle *handle, uint64_t within_ns, vmm_error **error);

// Asks for a pause without waiting for it: VMM_EVENT_PAUSED tells when it is complete. May be called
// from a callback.
vmm_status vmm_handle_request_pause(const vmm_handle *handle,
                                    vmm_error **error);

// Lets a paused machine go on; takes back a pause that is not complete. Never waits.
vmm_status vmm_handle_resume(const vmm_handle *handle, vmm_error **error);

// Fills `*state` with what the machine is doing now.
vmm_status vmm_handle_state(const vmm_handle *handle, vmm_machine_state *state, vmm_error **error);

// Copies `size` bytes of guest memory from guest address `at` to `data`.
// VMM_STATUS_GUEST_MEMORY if not all of it is RAM. May be called from a callback.
vmm_status vmm_machine_read(const vmm_machine *machine,
                            uint64_t at,
                            void *data,
                            size_t size,
                            vmm_error **error);

// Copies `size` bytes from `data` to guest address `at`, all or nothing.
// VMM_STATUS_GUEST_MEMORY if not all of it is RAM. May be called from a callback.
vmm_status vmm_machine_write(vmm_machine *machine,
                             uint64_t at,
                             const void *data,
                             size_t size,
                             vmm_error **error);

// Makes a view of `size` bytes of guest memory at guest address `at`, to be read without a copy.
// The guest may change them at any moment. VMM_STATUS_GUEST_MEMORY if it is not all RAM, or passes
// the hole below 4 GiB. Freed with vmm_view_free, before or after the machine.
//
//     vmm_machine_view(machine, frame_buffer, 1024 * 768 * 4, &view, NULL);
//     draw(vmm_view_data(view));
//     vmm_view_free(view);
vmm_status vmm_machine_view(const vmm_machine *machine,
                            uint64_t at,
                            size_t size,
                            vmm_view **view,
                            vmm_error **error);

// Where the view lies; valid until it is freed. NULL for NULL.
const void *vmm_view_data(const vmm_view *view);

// Its size in bytes; 0 for NULL.
size_t vmm_view_size(const vmm_view *view);

// Frees a view.
void vmm_view_free(vmm_view *view);

// Fills `*regs` with the registers of vCPU number `vcpu`, of a machine that is paused or not being
// run; else VMM_STATUS_WRONG_STATE. VMM_STATUS_NOT_FOUND if there is no such vCPU.
vmm_status vmm_machine_get_regs(const vmm_machine *machine,
                                uint32_t vcpu,
                                vmm_regs *regs,
                                vmm_error **error);

// Sets them; as vmm_machine_get_regs.
vmm_status vmm_machine_set_regs(vmm_machine *machine,
                                uint32_t vcpu,
                                const vmm_regs *regs,
                                vmm_error **error);

// Saves what a machine is now: devices, interrupt controllers, clock and vCPUs; everything but its
// memory, which is the caller's to copy (vmm_machine_read) before the machine goes on.
//
// The machine is paused (vmm_handle_pause) or not being run, and can go on afterwards.
//
// VMM_STATUS_WRONG_STATE if it is running or has ended; VMM_STATUS_UNSUPPORTED with the name of a
// device that cannot be saved; VMM_STATUS_HOST with ETIMEDOUT if a device is not done with the guest's
// buffers within ten seconds.
//
//     vmm_handle_pause(handle, 10000000000, NULL);
//     vmm_machine_save(machine, &saved, NULL);
//     vmm_machine_read(machine, 0, ram, ram_size, NULL);
//     ...                                  // Elsewhere, of the same description:
//     vmm_machine_write(other, 0, ram, ram_size, NULL);
//     vmm_machine_restore(other, vmm_saved_data(saved), vmm_saved_size(saved), NULL);
//     vmm_machine_run(other, &outcome, NULL);
vmm_status vmm_machine_save(const vmm_machine *machine,
                            vmm_saved **saved,
                            vmm_error **error);

// Makes a machine what another was when it was saved, perhaps in another process; it goes on where
// that one stood once it is run, or resumed. It is made of the same description, its memory has been
// written already, and it is paused or not being run.
//
// VMM_STATUS_INCOMPATIBLE with what is different, VMM_STATUS_NOT_FOUND or VMM_STATUS_SNAPSHOT if the
// bytes, which are not trusted, are not those of a machine: then it is of no use any more.
// VMM_STATUS_WRONG_STATE if it is running or was stopped.
vmm_status vmm_machine_restore(vmm_machine *machine,
                               const void *data,
                               size_t size,
                               vmm_error **error);

// Its bytes, which live as long as it does; NULL for NULL.
const void *vmm_saved_data(const vmm_saved *saved);

// How many there are; 0 for NULL.
size_t vmm_saved_size(const vmm_saved *saved);

// Frees it.
void vmm_saved_free(vmm_saved *saved);

// What the exits of a machine were until now. VMM_STATUS_WRONG_STATE unless
// vmm_config_set_accounting was called.
vmm_status vmm_machine_exits(const vmm_machine *machine, vmm_exits **exits, vmm_error **error);

// How many lines there are.
size_t vmm_exits_size(const vmm_exits *exits);

// Line `n`, which lives as long as `exits`; NULL if there is none.
const vmm_exit_count *vmm_exits_at(const vmm_exits *exits, size_t n);

// How many virtio devices there are.
size_t vmm_exits_traffic_size(const vmm_exits *exits);

// What passed by virtio device `n`, in the order they were added; it lives as long as `exits`. NULL
// if there is none.
const vmm_traffic *vmm_exits_traffic_at(const vmm_exits *exits, size_t n);

// Frees them.
void vmm_exits_free(vmm_exits *exits);

// The description of a sandbox that runs the program at this path of the host: a static x86-64 Linux
// executable. Freed with vmm_sandbox_config_free, also after a sandbox was made of it.
//
//     vmm_sandbox_config *config = vmm_sandbox_config_program("./hostcall");
//     vmm_value text = vmm_text("the quick brown fox"), score = vmm_int64(0);
//
//     vmm_sandbox_config_add_host_fn(config, "points", points, NULL, NULL);
//     vmm_sandbox_config_set_timeout(config, 1000000000);
//     vmm_sandbox_new(config, &app, NULL);
//     vmm_sandbox_config_free(config);
//     vmm_sandbox_start(app, NULL, NULL);          // main() runs until it is ready.
//     vmm_sandbox_call(app, "score", &text, 1, &score, NULL);
//     vmm_sandbox_free(app);
vmm_sandbox_config *vmm_sandbox_config_program(const char *path);

// The same for an executable in memory.
vmm_sandbox_config *vmm_sandbox_config_image(const void *data, size_t size);

// The description of a sandbox that goes on where the snapshot in this file (vmm_snapshot_save)
// stood, in the state it had, with random numbers of its own.
//
// It is given again what is not in the file, as to a program: limits, functions of the host,
// standard streams, directories. What it has is its own: arguments, environment, user. The file is
// not trusted, and may take no more than the description allows.
vmm_sandbox_config *vmm_sandbox_config_saved(const char *path);

// Frees a description, with what no sandbox has.
void vmm_sandbox_config_free(vmm_sandbox_config *config);

// What runs the program: "kvm", "soft" for the CPU in software, or "auto" for the best of this
// host; that is the default.
void vmm_sandbox_config_set_backend(vmm_sandbox_config *config, const char *name);

// The caller knows that the program of a snapshot uses no instruction beyond the first x86-64
// processors' (SSE2), whatever it was shown of the one it ran on. Without this it may have used
// everything, and goes on only where that is.
void vmm_sandbox_config_set_baseline_only(vmm_sandbox_config *config);

// One more argument of the program, the first of which is its name.
void vmm_sandbox_config_add_arg(vmm_sandbox_config *config, const char *argument);

// One more variable of the program's environment.
void vmm_sandbox_config_add_env(vmm_sandbox_config *config, const char *name, const char *value);

// All the memory of the sandbox in bytes; the host gives only what is touched.
void vmm_sandbox_config_set_memory(vmm_sandbox_config *config, uint64_t bytes);

// How many nanoseconds a start or a call may take; 0 for no limit.
void vmm_sandbox_config_set_timeout(vmm_sandbox_config *config, uint64_t ns);

// How many nanoseconds of processor time a start or a call may take; 0 for no limit.
void vmm_sandbox_config_set_cpu_time(vmm_sandbox_config *config, uint64_t ns);

// How many bytes the program may write to standard output and standard error in all: 64 MiB unless
// said otherwise.
void vmm_sandbox_config_set_output_limit(vmm_sandbox_config *config, uint64_t bytes);

// How many bytes the program's files in memory may take: 16 MiB unless said otherwise.
void vmm_sandbox_config_set_file_limit(vmm_sandbox_config *config, uint64_t bytes);

// Gives the VM to this cache when the sandbox is freed, and those of all forks of its snapshots, which
// take theirs from there. The cache can be freed at any time.
void vmm_sandbox_config_set_vm_cache(vmm_sandbox_config *config,
                                     const vmm_vm_cache *cache);

// The user and group that the program finds itself as: 1000 and 1000 unless said otherwise.
void vmm_sandbox_config_set_user(vmm_sandbox_config *config, uint32_t uid, uint32_t gid);

// These bytes are standard input.
void vmm_sandbox_config_set_stdin(vmm_sandbox_config *config, const void *data, size_t size);

// Descriptors for standard input, output and error; -1 for what stays as it is. What goes to a
// descriptor is not captured.
void vmm_sandbox_config_set_stdio(vmm_sandbox_config *config,
                                  int32_t input,
                                  int32_t output,
                                  int32_t errors);

// Shows the program the host's directory `directory` at its own path `at`, such as "/" or "/data";
// it sees nothing outside of it, by links neither. Read-only unless `writable`.
void vmm_sandbox_config_add_mount(vmm_sandbox_config *config,
                                  const char *directory,
                                  const char *at,
                                  bool writable);

// Calls `ask` on the thread that runs the program, right after a signal was handled there and every
// 50 ms; if it does not give 0, the start or call ends with VMM_CAUSE_INTERRUPTED. It is how an
// interpreter has its own handlers run. `drop` as for vmm_sandbox_config_add_host_fn.
void vmm_sandbox_config_set_interruptible(vmm_sandbox_config *config,
                                          vmm_ask_fn ask,
                                          void *user,
                                          vmm_drop_fn drop);

// Gives the program a function of the host by this name (vmm_call of vmm_guest.h). `drop` may be
// NULL; it is called when the sandbox is freed, or the description if there is none.
void vmm_sandbox_config_add_host_fn(vmm_sandbox_config *config,
                                    const char *name,
                                    vmm_host_fn function,
                                    void *user,
                                    vmm_drop_fn drop);

// Makes the sandbox; its program is loaded and has executed nothing yet. A description makes one
// sandbox: it is empty afterwards, and still to be freed.
//
// VMM_STATUS_BAD_CONFIG with the first setting that was wrong; VMM_STATUS_HOST with the file or
// directory that cannot be opened, or if the host gives no VM; VMM_STATUS_BAD_IMAGE if the program is
// not a static x86-64 Linux executable; VMM_STATUS_WRONG_STATE if a sandbox was made of it before.
//
// Of a snapshot in a file: VMM_STATUS_SNAPSHOT with the name of the section that was changed or cut,
// or is larger than allowed; VMM_STATUS_INCOMPATIBLE if it is of another version or thing, or with all
// that stands in its way (vmm_sandbox_config_check).
vmm_status vmm_sandbox_new(vmm_sandbox_config *config,
                           vmm_sandbox **sandbox,
                           vmm_error **error);

// Fills `*obstacles` with what stands in the way of vmm_sandbox_new, with what was said so far;
// the description can be changed and used afterwards. Of one that is no snapshot nothing does.
//
// VMM_STATUS_SNAPSHOT and VMM_STATUS_INCOMPATIBLE if the file is no snapshot that this library
// reads, VMM_STATUS_HOST if it cannot be read.
vmm_status vmm_sandbox_config_check(vmm_sandbox_config *config,
                                    vmm_obstacles **obstacles,
                                    vmm_error **error);

// How many there are.
size_t vmm_obstacles_size(const vmm_obstacles *obstacles);

// Obstacle `n`, which lives as long as `obstacles`; NULL if there is none.
const vmm_obstacle *vmm_obstacles_at(const vmm_obstacles *obstacles, size_t n);

// Frees them.
void vmm_obstacles_free(vmm_obstacles *obstacles);

// A value of VMM_KIND_INT64.
vmm_value vmm_int64(int64_t integer);

// A value of VMM_KIND_INT32.
vmm_value vmm_int32(int32_t integer);

// A value of VMM_KIND_BOOL.
vmm_value vmm_bool(bool is);

// A value of VMM_KIND_DOUBLE.
vmm_value vmm_double(double number);

// A value of VMM_KIND_FLOAT.
vmm_value vmm_float(float number);

// A value of VMM_KIND_TEXT, which stays where it is.
vmm_value vmm_text(const char *text);

// A value of VMM_KIND_BYTES, which stay where they are.
vmm_value vmm_bytes(const void *data, size_t size);

// A value of VMM_KIND_BUFFER.
vmm_value vmm_buffer(void *data, size_t size);

// The function gives this integer.
void vmm_result_int64(vmm_result *result, int64_t integer);

// The function gives this number.
void vmm_result_double(vmm_result *result, double number);

// The function gives a copy of these bytes, or of a text without its NUL.
void vmm_result_bytes(vmm_result *result, const void *data, size_t size);

// Frees a sandbox. It must not be in use.
void vmm_sandbox_free(vmm_sandbox *sandbox);

// Runs the program from its start to its end, or to where it says that it is ready to be called
// (vmm_ready of vmm_guest.h). `outcome` may be NULL.
//
// How the program ended is an outcome, not an error: VMM_ENDING_KILLED if it was stopped.
// VMM_STATUS_WRONG_STATE if it was started before; VMM_STATUS_INTERRUPTED if a signal came on this
// thread: the next vmm_sandbox_start goes on; VMM_STATUS_HOST if the back end fails.
vmm_status vmm_sandbox_start(vmm_sandbox *sandbox, vmm_outcome *outcome, vmm_error **error);

// Calls a global function of the program, which must have said that it is ready, and waits for its
// return.
//
// `result` says by its kind what the function returns, and is filled; NULL for void. For VMM_KIND_TEXT
// `data` and `size` are where the text goes; it is cut if it does not fit, and `size` becomes its whole
// length.
//
// VMM_STATUS_NOT_FOUND if there is no such function; VMM_STATUS_BAD_CONFIG if the arguments do not
// fit; VMM_STATUS_POISONED if it did not return, and the error says why: only vmm_sandbox_reset helps
// then; VMM_STATUS_GUEST_MEMORY if the text it returned is nowhere; VMM_STATUS_WRONG_STATE if it is not
// ready.
vmm_status vmm_sandbox_call(vmm_sandbox *sandbox,
                            const char *name,
                            const vmm_value *arguments,
                            size_t count,
                            vmm_value *result,
                            vmm_error **error);

// Fills `*state` with what the sandbox can do next.
vmm_status vmm_sandbox_get_state(const vmm_sandbox *sandbox,
                                 vmm_sandbox_state *state,
                                 vmm_error **error);

// Takes up to `size` bytes of what the program has written to standard output, if that is
// captured; gives how many, 0 if there are no more.
size_t vmm_sandbox_take_stdout(vmm_sandbox *sandbox, void *data, size_t size);

// The same of standard error.
size_t vmm_sandbox_take_stderr(vmm_sandbox *sandbox, void *data, size_t size);

// Fills `*statistics`, as much of it as its `struct_size` says.
vmm_status vmm_sandbox_get_statistics(const vmm_sandbox *sandbox,
                                      vmm_sandbox_statistics *statistics,
                                      vmm_error **error);

// Writes the system calls that the program made and that are not known here to `buffer`, in lines
// such as "io_uring_setup 3"; gives the whole length, 0 if there are none.
size_t vmm_sandbox_unknown_calls(const vmm_sandbox *sandbox, char *buffer, size_t size);

// What stops the sandbox from another thread or a signal handler; NULL for NULL.
vmm_canceller *vmm_sandbox_canceller(const vmm_sandbox *sandbox);

// Ends the start or call that is under way, or else the next one, with VMM_CAUSE_CANCELLED. May be
// called from a callback and from a signal handler.
void vmm_canceller_cancel(const vmm_canceller *canceller);

// Frees a canceller; nothing happens to the sandbox.
void vmm_canceller_free(vmm_canceller *canceller);

// Keeps what a sandbox is now, which is new or ready; else VMM_STATUS_WRONG_STATE. It goes on as before;
// nothing that it does later reaches the snapshot or a fork. VMM_STATUS_HOST if the host cannot seal
// memory, or a file that the program has open cannot be opened anew.
//
//     vmm_sandbox_snapshot(app, &warm, NULL);
//     vmm_snapshot_fork(warm, &child, NULL);
//     vmm_sandbox_call(child, "score", &text, 1, &score, NULL);
//     vmm_sandbox_reset(child, warm, NULL);        // As if it had never been called.
vmm_status vmm_sandbox_snapshot(vmm_sandbox *sandbox,
                                vmm_snapshot **snapshot,
                                vmm_error **error);

// Makes another sandbox, in a VM of its own, that goes on from the snapshot and shares its memory
// until it writes. Functions of the host are the same; captured output starts empty; random numbers
// are its own. VMM_STATUS_HOST if the host gives no VM, memory or descriptor, or a file that the
// program has open cannot be opened anew.
vmm_status vmm_snapshot_fork(const vmm_snapshot *snapshot,
                             vmm_sandbox **sandbox,
                             vmm_error **error);

// Puts a sandbox back to a snapshot, whatever has become of its program since. What it costs follows
// what was written since, if it was forked from that snapshot, reset to it or made into it last.
// VMM_STATUS_INCOMPATIBLE if the snapshot is of another back end or processor;
// VMM_STATUS_WRONG_STATE if the sandbox is unrecoverable, VMM_STATUS_HOST if it becomes so.
vmm_status vmm_sandbox_reset(vmm_sandbox *sandbox,
                             const vmm_snapshot *to,
                             vmm_error **error);

// Writes a snapshot to a file, from which vmm_sandbox_config_saved goes on, in another process or
// on another host. The file appears whole or not at all, and takes the place of one that was there.
// It is readable for its owner only: it has all that the program has in memory.
//
// VMM_STATUS_HOST if it cannot be written, and what was there stays; VMM_STATUS_UNSUPPORTED if the
// program has a file of the host open that has no name any more; VMM_STATUS_WRONG_STATE if it was
// interrupted in the middle of an exception: interrupt it again.
vmm_status vmm_snapshot_save(const vmm_snapshot *snapshot, const char *path, vmm_error **error);

// Opens a file of vmm_snapshot_save, for a program that was lent nothing and asks for no more than
// what vmm_sandbox_config_saved gives unless told otherwise. Fails as vmm_sandbox_new and
// vmm_sandbox_snapshot do.
vmm_status vmm_snapshot_open(const char *path, vmm_snapshot **snapshot, vmm_error **error);

// Frees a snapshot; its forks stay.
void vmm_snapshot_free(vmm_snapshot *snapshot);

// Makes a pool of at most `size` sandboxes of the snapshot, which can be freed then. Returns at
// once; a thread of the pool's makes them. VMM_STATUS_BAD_CONFIG for a size of 0, VMM_STATUS_HOST if
// there is no thread to be had.
//
//     vmm_pool_new(warm, 4, &pool, NULL);
//     vmm_pool_take(pool, VMM_FOREVER, &child, NULL);
//     vmm_sandbox_call(child, "score", &text, 1, &score, NULL);
//     vmm_sandbox_free(child);                     // It goes back.
vmm_status vmm_pool_new(const vmm_snapshot *snapshot,
                        size_t size,
                        vmm_pool **pool,
                        vmm_error **error);

// Takes a sandbox that is as the snapshot says. vmm_sandbox_free gives it back, whatever state it
// is in, and has it reset there.
//
// Waits while all are in use, up to `within_ns` nanoseconds: 0 for not at all, VMM_FOREVER for ever;
// then VMM_STATUS_HOST with ETIMEDOUT. Fails as vmm_snapshot_fork if no sandbox can be made.
vmm_status vmm_pool_take(const vmm_pool *pool,
                         uint64_t within_ns,
                         vmm_sandbox **sandbox,
                         vmm_error **error);

// Fills `*statistics`, as much of it as its `struct_size` says.
vmm_status vmm_pool_get_statistics(const vmm_pool *pool,
                                   vmm_pool_statistics *statistics,
                                   vmm_error **error);

// Frees a pool and what it has; a sandbox that is lent out is freed when it comes back. Nobody may
// be waiting in vmm_pool_take.
void vmm_pool_free(vmm_pool *pool);

// Makes a cache of at most `size` VMs, which is empty. A thread of its own closes those that it does
// not keep. It is given to sandboxes by vmm_sandbox_config_set_vm_cache. VMM_STATUS_HOST if there is
// no thread to be had.
//
//     vmm_vm_cache_new(8, &cache, NULL);
//     vmm_sandbox_config_set_vm_cache(config, cache);
//     vmm_sandbox_new(config, &app, NULL);
//     vmm_sandbox_start(app, NULL, NULL);
//     vmm_sandbox_snapshot(app, &warm, NULL);
//     for (;;) {
//         vmm_snapshot_fork(warm, &child, NULL);   // the second one takes the first one's VM
//         vmm_sandbox_call(child, "answer", &request, 1, &answer, NULL);
//         vmm_sandbox_free(child);
//     }
vmm_status vmm_vm_cache_new(size_t size,
                            vmm_vm_cache **cache,
                            vmm_error **error);

// Fills `*statistics`, as much of it as its `struct_size` says.
vmm_status vmm_vm_cache_get_statistics(const vmm_vm_cache *cache,
                                       vmm_vm_cache_statistics *statistics,
                                       vmm_error **error);

// Frees a cache and the VMs in it; sandboxes that have it go on, and close their VMs themselves.
void vmm_vm_cache_free(vmm_vm_cache *cache);

// Has every message up to `most`, a vmm_log_level, given to `function`, from all objects of this
// process, instead of whoever had them before; NULL for nobody.
//
// `drop` is called when there is another and no call is under way; if this fails, it is not.
// VMM_STATUS_BAD_CONFIG if there is no such level, VMM_STATUS_WRONG_STATE if the program that this is
// in has a logger of its own in Rust.
vmm_status vmm_set_log(int32_t most,
                       vmm_log_fn function,
                       void *user,
                       void (*drop)(void *user),
                       vmm_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VMM_H */
