/*
 * A panic of the library under every function of it: panics PROGRAM GUEST, which are examples/guests/hostcall.c and
 * guests/driver.c. Each place where one can come has its turn; what it was in the middle of is used no more.
 *
 * `panics` alone prints the names of the functions.
 */

#include <unistd.h>

#include "check.h"
#include "testing.h"

/* One of everything, made anew for each try. */
struct objects {
    vmm_config *config, *new_config;
    vmm_machine *machine, *new_machine;
    vmm_handle *handle, *new_handle;
    vmm_device *device, *new_device;
    vmm_disk *disk, *new_disk;
    vmm_peer *peer, *new_peer;
    vmm_console *console, *new_console;
    vmm_virtio *virtio, *new_virtio;
    vmm_view *view, *new_view;
    vmm_exits *exits, *new_exits;
    vmm_saved *saved, *new_saved;
    vmm_report *report, *new_report;
    vmm_inspection *inspection, *new_inspection;
    vmm_sandbox_config *app, *new_app;
    vmm_sandbox *sandbox, *new_sandbox;
    vmm_canceller *canceller, *new_canceller;
    vmm_snapshot *snapshot, *new_snapshot;
    vmm_obstacles *obstacles, *new_obstacles;
    vmm_pool *pool, *new_pool;
    vmm_vm_cache *cache, *new_cache;
    vmm_error *failure;
    vmm_status status;
    vmm_error *error;
    vmm_regs regs;
    vmm_event event;
    vmm_machine_state state;
    vmm_sandbox_state sandbox_state;
    vmm_disk_statistics of_disk;
    vmm_pool_statistics of_pool;
    vmm_vm_cache_statistics of_cache;
    vmm_sandbox_statistics of_sandbox;
    int32_t fd;
    uint8_t byte;
    char text[16];
    const void *state_saved;
    size_t size_saved;
};

static const uint8_t halts[] = {0xf4};
static const char *program, *guest;
static vmm_snapshot *warm;
static char directory[] = "/tmp/vmm-panics-XXXXXX", base[64], top[64], lent[64], alone[64], another[64];

static int32_t device_read(void *user, uint32_t window, uint64_t offset, uint8_t *data, size_t size)
{
    (void)user, (void)window, (void)offset;
    memset(data, 0, size);
    return VMM_FLOW_CONTINUE;
}

static int32_t device_save(void *user, vmm_result *state)
{
    (void)user, (void)state;
    return 0;
}

static int32_t device_restore(void *user, const uint8_t *state, size_t size)
{
    (void)user, (void)state;
    return size != 0;
}

static int32_t disk_read(void *user, uint64_t at, uint8_t *data, size_t size)
{
    (void)user, (void)at;
    memset(data, 0, size);
    return 0;
}

static int32_t disk_resize(void *user, uint64_t size)
{
    (void)user, (void)size;
    return 0;
}

static ptrdiff_t peer_send(void *user, const uint8_t *data, size_t size)
{
    (void)user, (void)data;
    return (ptrdiff_t)size;
}

static int32_t idle(void *user, vmm_io *io, int32_t source)
{
    (void)user, (void)io, (void)source;
    return 0;
}

static int32_t points(void *user, const vmm_value *arguments, size_t count, vmm_result *result);

static int32_t go_on(void *user)
{
    (void)user;
    return 0;
}

static void hear(void *user, vmm_log_level level, const char *target, const char *message)
{
    (void)user, (void)level, (void)target, (void)message;
}

static const vmm_device_ops device_ops = {
    .struct_size = sizeof device_ops, .read = device_read, .save = device_save, .restore = device_restore,
};
static const vmm_disk_ops disk_ops = {.struct_size = sizeof disk_ops, .read = disk_read, .resize = disk_resize};
static const vmm_peer_ops peer_ops = {.struct_size = sizeof peer_ops, .send = peer_send};
static const vmm_virtio_ops virtio_ops = {.struct_size = sizeof virtio_ops, .wake = idle};

static vmm_config *description(void)
{
    vmm_config *config = vmm_config_new();
    vmm_config_set_backend(config, "script");
    vmm_config_set_memory(config, 1 << 20);
    vmm_config_boot_long_mode(config, halts, 1);
    return config;
}

static vmm_sandbox_config *application(void *user)
{
    vmm_sandbox_config *app = vmm_sandbox_config_program(program);
    vmm_sandbox_config_add_host_fn(app, "points", points, user, NULL);
    return app;
}

/* Starts the program; with the function of the host, or without. */
static vmm_snapshot *started(vmm_sandbox_config *app)
{
    vmm_sandbox *sandbox;
    vmm_snapshot *snapshot;
    WORKS(vmm_sandbox_new(app, &sandbox, &error));
    vmm_sandbox_config_free(app);
    WORKS(vmm_sandbox_start(sandbox, NULL, &error));
    WORKS(vmm_sandbox_snapshot(sandbox, &snapshot, &error));
    vmm_sandbox_free(sandbox);
    return snapshot;
}

static void make(struct objects *o)
{
    vmm_config *config = description();
    memset(o, 0, sizeof *o);
    o->of_disk.struct_size = sizeof o->of_disk;
    o->of_pool.struct_size = sizeof o->of_pool;
    o->of_sandbox.struct_size = sizeof o->of_sandbox;
    o->of_cache.struct_size = sizeof o->of_cache;
    WORKS(vmm_device_new("device", &device_ops, NULL, &o->device, &error));
    WORKS(vmm_device_add_ports(o->device, 0x50, 1, &error));
    WORKS(vmm_device_add_irq(o->device, &error));
    vmm_config_add_device(config, o->device);
    vmm_config_set_accounting(config, true);
    WORKS(vmm_machine_new(config, &o->machine, &error));
    vmm_config_free(config);
    o->config = description();
    o->handle = vmm_machine_handle(o->machine);
    WORKS(vmm_disk_new(&disk_ops, 4096, NULL, &o->disk, &error));
    WORKS(vmm_peer_new(&peer_ops, -1, -1, NULL, &o->peer, &error));
    WORKS(vmm_console_new(o->peer, &o->console, &error));
    vmm_peer_free(o->peer);
    WORKS(vmm_peer_new(&peer_ops, -1, -1, NULL, &o->peer, &error));
    vmm_console_set_room(o->console, 4);
    WORKS(vmm_virtio_new("virtio", 42, &virtio_ops, NULL, &o->virtio, &error));
    vmm_virtio_add_queue(o->virtio, 16);
    WORKS(vmm_machine_view(o->machine, 0, 4096, &o->view, &error));
    WORKS(vmm_machine_exits(o->machine, &o->exits, &error));
    WORKS(vmm_machine_save(o->machine, &o->saved, &error));
    o->state_saved = vmm_saved_data(o->saved);
    o->size_saved = vmm_saved_size(o->saved);
    WORKS(vmm_probe(&o->report, &error));
    WORKS(vmm_inspect(guest, &o->inspection, &error));
    o->app = vmm_sandbox_config_saved(lent);
    WORKS(vmm_sandbox_config_check(o->app, &o->obstacles, &error));
    CHECK(vmm_obstacles_size(o->obstacles) == 1);
    vmm_sandbox_config_free(o->app);
    o->app = application(NULL);
    WORKS(vmm_snapshot_fork(warm, &o->sandbox, &error));
    o->canceller = vmm_sandbox_canceller(o->sandbox);
    WORKS(vmm_sandbox_snapshot(o->sandbox, &o->snapshot, &error));
    WORKS(vmm_pool_new(warm, 1, &o->pool, &error));
    WORKS(vmm_vm_cache_new(1, &o->cache, &error));
    CHECK(vmm_machine_reset(NULL, &o->failure) == VMM_STATUS_BAD_CONFIG);
}

static void release(struct objects *o)
{
    unlink(top), unlink(another);
    vmm_set_log(0, NULL, NULL, NULL, NULL);
    vmm_config_free(o->config), vmm_config_free(o->new_config);
    vmm_machine_free(o->machine), vmm_machine_free(o->new_machine);
    vmm_handle_free(o->handle), vmm_handle_free(o->new_handle);
    vmm_device_free(o->device), vmm_device_free(o->new_device);
    vmm_disk_free(o->disk), vmm_disk_free(o->new_disk);
    vmm_peer_free(o->peer), vmm_peer_free(o->new_peer);
    vmm_console_free(o->console), vmm_console_free(o->new_console);
    vmm_virtio_free(o->virtio), vmm_virtio_free(o->new_virtio);
    vmm_view_free(o->view), vmm_view_free(o->new_view);
    vmm_exits_free(o->exits), vmm_exits_free(o->new_exits);
    vmm_saved_free(o->saved), vmm_saved_free(o->new_saved);
    vmm_report_free(o->report), vmm_report_free(o->new_report);
    vmm_inspection_free(o->inspection), vmm_inspection_free(o->new_inspection);
    vmm_sandbox_config_free(o->app), vmm_sandbox_config_free(o->new_app);
    vmm_sandbox_free(o->sandbox), vmm_sandbox_free(o->new_sandbox);
    vmm_canceller_free(o->canceller), vmm_canceller_free(o->new_canceller);
    vmm_snapshot_free(o->snapshot), vmm_snapshot_free(o->new_snapshot);
    vmm_obstacles_free(o->obstacles), vmm_obstacles_free(o->new_obstacles);
    vmm_pool_free(o->pool), vmm_pool_free(o->new_pool);
    vmm_vm_cache_free(o->cache), vmm_vm_cache_free(o->new_cache);
    vmm_error_free(o->failure);
}

/* FAILS_(function, arguments but the error): gives a status.  GIVES(function, new object, arguments): NULL.
 * TELLS(function, arguments): nothing of note.  FREES(function, object): does not, here. */
#define ENTRIES(FAILS_, GIVES, TELLS, FREES)                                                       \
    TELLS(vmm_error_status, o->failure)                                                            \
    TELLS(vmm_error_message, o->failure)                                                           \
    TELLS(vmm_error_os, o->failure)                                                                \
    FREES(vmm_error_free, failure)                                                                 \
    FAILS_(vmm_probe, &o->new_report)                                                              \
    TELLS(vmm_report_kvm, o->report)                                                               \
    TELLS(vmm_report_text, o->report)                                                              \
    FREES(vmm_report_free, report)                                                                 \
    GIVES(vmm_config_new, new_config, )                                                            \
    FREES(vmm_config_free, config)                                                                 \
    TELLS(vmm_config_set_backend, o->config, "soft")                                               \
    TELLS(vmm_config_set_memory, o->config, 4096)                                                  \
    TELLS(vmm_config_set_vcpus, o->config, 1)                                                      \
    TELLS(vmm_config_set_interrupts, o->config, true)                                              \
    TELLS(vmm_config_add_serial, o->config, -1, -1)                                                \
    TELLS(vmm_config_add_rtc, o->config)                                                           \
    TELLS(vmm_config_add_i8042, o->config)                                                         \
    TELLS(vmm_config_add_debug_exit, o->config)                                                    \
    TELLS(vmm_config_add_device, o->config, o->device)                                             \
    TELLS(vmm_config_add_disk, o->config, o->disk)                                                 \
    TELLS(vmm_config_add_console, o->config, o->console)                                           \
    TELLS(vmm_config_add_rng, o->config, 0, 0)                                                     \
    TELLS(vmm_config_add_virtio, o->config, o->virtio)                                             \
    TELLS(vmm_config_set_accounting, o->config, true)                                              \
    FAILS_(vmm_machine_new, o->config, &o->new_machine)                                            \
    TELLS(vmm_config_boot_linux, o->config, "k", "i", "c")                                         \
    TELLS(vmm_config_boot_pvh, o->config, "k", "i", "c")                                           \
    TELLS(vmm_config_boot_multiboot, o->config, "k", "c")                                          \
    TELLS(vmm_config_add_module, o->config, "m", "c")                                              \
    TELLS(vmm_config_boot_elf64, o->config, "k", "c")                                              \
    TELLS(vmm_config_boot_long_mode, o->config, halts, 1)                                         \
    TELLS(vmm_config_boot_real_mode, o->config, halts, 1)                                         \
    FAILS_(vmm_inspect, guest, &o->new_inspection)                                                 \
    TELLS(vmm_inspection_best, o->inspection)                                                      \
    TELLS(vmm_inspection_text, o->inspection)                                                      \
    FREES(vmm_inspection_free, inspection)                                                         \
    FAILS_(vmm_device_new, "d", &device_ops, NULL, &o->new_device)                                 \
    FREES(vmm_device_free, device)                                                                 \
    FAILS_(vmm_device_add_ports, o->device, 1, 1)                                                  \
    FAILS_(vmm_device_add_mmio, o->device, VMM_ANYWHERE, 8)                                        \
    FAILS_(vmm_device_add_irq, o->device)                                                          \
    FAILS_(vmm_device_interrupt, o->device)                                                        \
    FAILS_(vmm_disk_open, base, &o->new_disk)                                                      \
    FAILS_(vmm_disk_open_read_only, base, &o->new_disk)                                            \
    FAILS_(vmm_disk_memory, 512, &o->new_disk)                                                     \
    FAILS_(vmm_disk_overlay_temporary, base, &o->new_disk)                                         \
    FAILS_(vmm_disk_overlay_create, top, base, &o->new_disk)                                       \
    FAILS_(vmm_disk_overlay_open, top, base, &o->new_disk)                                         \
    FAILS_(vmm_disk_new, &disk_ops, 512, NULL, &o->new_disk)                                       \
    FREES(vmm_disk_free, disk)                                                                     \
    TELLS(vmm_disk_set_read_only, o->disk)                                                         \
    TELLS(vmm_disk_set_serial, o->disk, "s")                                                       \
    TELLS(vmm_disk_set_queues, o->disk, 2)                                                         \
    TELLS(vmm_disk_set_limit, o->disk, 1, 1)                                                       \
    TELLS(vmm_disk_size, o->disk)                                                                  \
    FAILS_(vmm_disk_resize, o->disk, 1024)                                                         \
    FAILS_(vmm_disk_get_statistics, o->disk, &o->of_disk)                                          \
    FAILS_(vmm_peer_stream, -1, 1, &o->new_peer)                                                   \
    FAILS_(vmm_peer_new, &peer_ops, -1, -1, NULL, &o->new_peer)                                    \
    FREES(vmm_peer_free, peer)                                                                     \
    FAILS_(vmm_console_new, o->peer, &o->new_console)                                              \
    FREES(vmm_console_free, console)                                                               \
    TELLS(vmm_console_set_room, o->console, 2)                                                     \
    FAILS_(vmm_console_add_port, o->console, "p", o->peer)                                         \
    FAILS_(vmm_console_resize, o->console, 80, 25)                                                 \
    FAILS_(vmm_virtio_new, "v", 42, &virtio_ops, NULL, &o->new_virtio)                             \
    FREES(vmm_virtio_free, virtio)                                                                 \
    TELLS(vmm_virtio_add_queue, o->virtio, 16)                                                     \
    TELLS(vmm_virtio_set_features, o->virtio, 1)                                                   \
    FAILS_(vmm_virtio_add_source, o->virtio, 0)                                                    \
    FREES(vmm_machine_free, machine)                                                               \
    TELLS(vmm_machine_backend, o->machine)                                                         \
    TELLS(vmm_machine_backend_reason, o->machine)                                                  \
    FAILS_(vmm_machine_run, o->machine, NULL)                                                      \
    FAILS_(vmm_machine_start, o->machine)                                                          \
    FAILS_(vmm_machine_event_fd, o->machine, &o->fd)                                               \
    FAILS_(vmm_machine_next_event, o->machine, &o->event, NULL)                                    \
    FAILS_(vmm_machine_reset, o->machine)                                                          \
    GIVES(vmm_machine_handle, new_handle, o->machine)                                              \
    FREES(vmm_handle_free, handle)                                                                 \
    GIVES(vmm_handle_clone, new_handle, o->handle)                                                 \
    FAILS_(vmm_handle_stop, o->handle)                                                             \
    FAILS_(vmm_handle_pause, o->handle, 1000000000)                                                \
    FAILS_(vmm_handle_request_pause, o->handle)                                                    \
    FAILS_(vmm_handle_resume, o->handle)                                                           \
    FAILS_(vmm_handle_state, o->handle, &o->state)                                                 \
    FAILS_(vmm_machine_read, o->machine, 0, &o->byte, 1)                                           \
    FAILS_(vmm_machine_write, o->machine, 0, &o->byte, 1)                                          \
    FAILS_(vmm_machine_view, o->machine, 0, 1, &o->new_view)                                       \
    TELLS(vmm_view_data, o->view)                                                                  \
    TELLS(vmm_view_size, o->view)                                                                  \
    FREES(vmm_view_free, view)                                                                     \
    FAILS_(vmm_machine_get_regs, o->machine, 0, &o->regs)                                          \
    FAILS_(vmm_machine_set_regs, o->machine, 0, &o->regs)                                          \
    FAILS_(vmm_machine_save, o->machine, &o->new_saved)                                            \
    FAILS_(vmm_machine_restore, o->machine, o->state_saved, o->size_saved)                         \
    TELLS(vmm_saved_data, o->saved)                                                                \
    TELLS(vmm_saved_size, o->saved)                                                                \
    FREES(vmm_saved_free, saved)                                                                   \
    FAILS_(vmm_machine_exits, o->machine, &o->new_exits)                                           \
    TELLS(vmm_exits_size, o->exits)                                                                \
    TELLS(vmm_exits_traffic_size, o->exits)                                                        \
    TELLS(vmm_exits_traffic_at, o->exits, 0)                                                       \
    TELLS(vmm_exits_at, o->exits, 0)                                                               \
    FREES(vmm_exits_free, exits)                                                                   \
    GIVES(vmm_sandbox_config_program, new_app, program)                                            \
    GIVES(vmm_sandbox_config_image, new_app, "image", 5)                                           \
    FREES(vmm_sandbox_config_free, app)                                                            \
    GIVES(vmm_sandbox_config_saved, new_app, lent)                                                 \
    TELLS(vmm_sandbox_config_set_baseline_only, o->app)                                            \
    FAILS_(vmm_sandbox_config_check, o->app, &o->new_obstacles)                                    \
    TELLS(vmm_obstacles_size, o->obstacles)                                                        \
    TELLS(vmm_obstacles_at, o->obstacles, 0)                                                       \
    FREES(vmm_obstacles_free, obstacles)                                                           \
    TELLS(vmm_sandbox_config_set_backend, o->app, "auto")                                          \
    TELLS(vmm_sandbox_config_add_arg, o->app, "a")                                                 \
    TELLS(vmm_sandbox_config_add_env, o->app, "a", "b")                                            \
    TELLS(vmm_sandbox_config_set_memory, o->app, 64 << 20)                                         \
    TELLS(vmm_sandbox_config_set_timeout, o->app, 1)                                               \
    TELLS(vmm_sandbox_config_set_cpu_time, o->app, 1)                                              \
    TELLS(vmm_sandbox_config_set_output_limit, o->app, 1)                                          \
    TELLS(vmm_sandbox_config_set_file_limit, o->app, 1)                                            \
    TELLS(vmm_sandbox_config_set_vm_cache, o->app, o->cache)                                       \
    TELLS(vmm_sandbox_config_set_user, o->app, 1, 1)                                               \
    TELLS(vmm_sandbox_config_set_stdin, o->app, "s", 1)                                            \
    TELLS(vmm_sandbox_config_set_stdio, o->app, 0, 1, 2)                                           \
    TELLS(vmm_sandbox_config_add_mount, o->app, "/", "/", false)                                   \
    TELLS(vmm_sandbox_config_set_interruptible, o->app, go_on, NULL, NULL)                         \
    TELLS(vmm_sandbox_config_add_host_fn, o->app, "f", points, NULL, NULL)                         \
    FAILS_(vmm_sandbox_new, o->app, &o->new_sandbox)                                               \
    FREES(vmm_sandbox_free, sandbox)                                                               \
    FAILS_(vmm_sandbox_start, o->sandbox, NULL)                                                    \
    FAILS_(vmm_sandbox_call, o->sandbox, "score", NULL, 0, NULL)                                   \
    FAILS_(vmm_sandbox_get_state, o->sandbox, &o->sandbox_state)                                   \
    TELLS(vmm_sandbox_take_stdout, o->sandbox, &o->byte, 1)                                        \
    TELLS(vmm_sandbox_take_stderr, o->sandbox, &o->byte, 1)                                        \
    FAILS_(vmm_sandbox_get_statistics, o->sandbox, &o->of_sandbox)                                 \
    TELLS(vmm_sandbox_unknown_calls, o->sandbox, o->text, sizeof o->text)                          \
    GIVES(vmm_sandbox_canceller, new_canceller, o->sandbox)                                        \
    TELLS(vmm_canceller_cancel, o->canceller)                                                      \
    FREES(vmm_canceller_free, canceller)                                                           \
    FAILS_(vmm_sandbox_snapshot, o->sandbox, &o->new_snapshot)                                     \
    FAILS_(vmm_snapshot_fork, o->snapshot, &o->new_sandbox)                                        \
    FAILS_(vmm_sandbox_reset, o->sandbox, o->snapshot)                                             \
    FAILS_(vmm_snapshot_save, o->snapshot, another)                                                \
    FAILS_(vmm_snapshot_open, alone, &o->new_snapshot)                                             \
    FREES(vmm_snapshot_free, snapshot)                                                             \
    FAILS_(vmm_pool_new, o->snapshot, 1, &o->new_pool)                                             \
    FAILS_(vmm_pool_take, o->pool, VMM_FOREVER, &o->new_sandbox)                                   \
    FAILS_(vmm_pool_get_statistics, o->pool, &o->of_pool)                                          \
    FAILS_(vmm_vm_cache_new, 1, &o->new_cache)                                                     \
    FAILS_(vmm_vm_cache_get_statistics, o->cache, &o->of_cache)                                    \
    FREES(vmm_vm_cache_free, cache)                                                                \
    FREES(vmm_pool_free, pool)                                                                     \
    FAILS_(vmm_set_log, 1, hear, NULL, NULL)

#define FAILING(f, ...) static void try_##f(struct objects *o) { o->status = f(__VA_ARGS__, &o->error); }
#define GIVING(f, new, ...) static void try_##f(struct objects *o) { o->new = f(__VA_ARGS__); }
#define TELLING(f, ...) static void try_##f(struct objects *o) { (void)f(__VA_ARGS__); }
#define FREEING(f, object)                                                                         \
    static void try_##f(struct objects *o)                                                         \
    {                                                                                              \
        f(o->object);                                                                              \
        if (vmm_testing_panic_left() != 0)                                                         \
            o->object = NULL;                                                                      \
    }
ENTRIES(FAILING, GIVING, TELLING, FREEING)

struct entry {
    const char *name;
    void (*try)(struct objects *o);
    bool fails, sets;
    size_t given; /* where the new object goes, or 0 */
};

#define FAILING_ENTRY(f, ...) {#f, try_##f, true, false, 0},
#define GIVING_ENTRY(f, new, ...) {#f, try_##f, false, false, offsetof(struct objects, new)},
#define TELLING_ENTRY(f, ...) {#f, try_##f, false, true, 0},
#define FREEING_ENTRY(f, ...) {#f, try_##f, false, false, 0},
static const struct entry entries[] = {ENTRIES(FAILING_ENTRY, GIVING_ENTRY, TELLING_ENTRY, FREEING_ENTRY)};

/* Those that only callbacks have a use for. */
static const char *const in_callbacks[] = {
    "vmm_io_pop", "vmm_io_features", "vmm_io_config_changed", "vmm_io_need_reset", "vmm_io_hold", "vmm_io_resume",
    "vmm_chain_queue", "vmm_chain_readable", "vmm_chain_writable", "vmm_chain_read", "vmm_chain_write",
    "vmm_chain_is_current", "vmm_chain_complete", "vmm_chain_fail", "vmm_chain_free",
    "vmm_result_int64", "vmm_result_double", "vmm_result_bytes",
};

/* What is used no more after a panic in the middle of it: the entry says so when it is called again. */
static const char *const poisoned_by[] = {
    "vmm_machine_new", "vmm_machine_run", "vmm_machine_reset", "vmm_machine_write", "vmm_machine_set_regs",
    "vmm_machine_save", "vmm_machine_restore",
    "vmm_device_add_ports", "vmm_disk_resize", "vmm_virtio_add_source", "vmm_sandbox_new", "vmm_sandbox_start",
    "vmm_sandbox_call", "vmm_sandbox_reset", "vmm_sandbox_config_check", "vmm_snapshot_fork", "vmm_snapshot_save",
    "vmm_pool_take",
};

static bool is_in(const char *name, const char *const *list, size_t count)
{
    while (count > 0)
        if (strcmp(list[--count], name) == 0)
            return true;
    return false;
}

/* Makes the panic number `n` of an entry come; whether there is one. */
static bool panics(const struct entry *entry, uint32_t n)
{
    struct objects o;
    bool came, poisons = is_in(entry->name, poisoned_by, sizeof poisoned_by / sizeof *poisoned_by);
    make(&o);
    vmm_testing_panic_at(n);
    entry->try(&o);
    came = vmm_testing_panic_left() == 0;
    vmm_testing_panic_at(0);
    if (came && entry->given)
        CHECK(*(void **)((char *)&o + entry->given) == NULL);
    if (came && entry->fails) {
        if (o.status != VMM_STATUS_INTERNAL)
            fprintf(stderr, "%s: place %u: %d\n", entry->name, n, o.status);
        CHECK(o.status == VMM_STATUS_INTERNAL && strstr(vmm_error_message(o.error), "injected"));
        vmm_error_free(o.error);
        entry->try(&o);
        CHECK(o.status != VMM_STATUS_INTERNAL);
        CHECK(!poisons || n < 2 || o.status == VMM_STATUS_POISONED);
    }
    vmm_error_free(o.error);
    o.error = NULL;
    /* A description of which a setting is missing makes nothing. */
    if (came && entry->sets && strncmp(entry->name, "vmm_config_", 11) == 0)
        CHECK(vmm_machine_new(o.config, &o.new_machine, NULL) != VMM_STATUS_OK);
    if (came && entry->sets && strncmp(entry->name, "vmm_sandbox_config_", 19) == 0)
        CHECK(vmm_sandbox_new(o.app, &o.new_sandbox, NULL) != VMM_STATUS_OK);
    release(&o);
    return came;
}

static int tries;

/* Once with a panic, of which nothing is left, and once without. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        vmm_testing_panic_at(1);                                                                   \
        (void)(call);                                                                              \
        CHECK(vmm_testing_panic_left() == 0);                                                      \
        tries++;                                                                                   \
    } while (0)

static int32_t points(void *user, const vmm_value *arguments, size_t count, vmm_result *result)
{
    (void)arguments, (void)count;
    if (user) {
        TRY((vmm_result_double(result, 1), 0));
        TRY((vmm_result_bytes(result, "x", 1), 0));
        TRY((vmm_result_int64(result, 5), 0));
        vmm_result_int64(result, 7);
    }
    return 0;
}

static int32_t wake(void *user, vmm_io *io, int32_t source)
{
    vmm_chain *chain;
    uint8_t data[5], turned[5];
    size_t n;
    (void)user, (void)source;
    TRY(vmm_io_features(io));
    TRY((vmm_io_hold(io, 0), 0));
    TRY((vmm_io_resume(io, 0), 0));
    TRY((vmm_io_config_changed(io), 0));
    TRY((vmm_io_need_reset(io, "no"), 0));
    vmm_testing_panic_at(1);
    CHECK(vmm_io_pop(io, 0) == NULL && vmm_testing_panic_left() == 0);
    tries++;
    while ((chain = vmm_io_pop(io, 0)) != NULL) {
        TRY(vmm_chain_queue(chain));
        TRY(vmm_chain_readable(chain));
        TRY(vmm_chain_writable(chain));
        TRY(vmm_chain_is_current(chain));
        TRY(vmm_chain_read(chain, 0, data, 5));
        TRY(vmm_chain_write(chain, 0, data, 5));
        TRY((vmm_chain_free(chain), 0));
        TRY((vmm_chain_fail(chain, 0), 0));
        TRY((vmm_chain_complete(chain, 0), 0));
        CHECK(vmm_chain_read(chain, 0, data, 5) == 5);
        for (n = 0; n < 5; n++)
            turned[n] = data[4 - n];
        CHECK(vmm_chain_write(chain, 0, turned, 5) == 5);
        vmm_chain_complete(chain, 5);
    }
    return 0;
}

static void read_config(void *user, uint64_t offset, uint8_t *data, size_t size)
{
    static const uint8_t config[] = {0x44, 0x33, 0x22, 0x11};
    (void)user;
    if (offset == 0 && size == 4)
        memcpy(data, config, 4);
}

static void callbacks(void)
{
    vmm_virtio_ops ops = {.struct_size = sizeof ops, .wake = wake, .read_config = read_config};
    vmm_value text = vmm_text("two words"), score = vmm_int64(0);
    vmm_config *config = vmm_config_new();
    vmm_virtio *virtio;
    vmm_machine *machine;
    vmm_sandbox_config *app = application(&tries);
    vmm_sandbox *sandbox;
    vmm_outcome outcome;

    tries = 0;
    vmm_config_set_backend(config, "soft");
    vmm_config_set_memory(config, 4 << 20);
    vmm_config_boot_elf64(config, guest, "echo");
    vmm_config_add_debug_exit(config);
    WORKS(vmm_virtio_new("virtio", 42, &ops, NULL, &virtio, &error));
    vmm_virtio_add_queue(virtio, 16);
    vmm_config_add_virtio(config, virtio);
    vmm_virtio_free(virtio);
    WORKS(vmm_machine_new(config, &machine, &error));
    vmm_config_free(config);
    WORKS(vmm_machine_run(machine, &outcome, &error));
    CHECK(outcome.ending == VMM_ENDING_POWER_OFF && outcome.code == 0 && tries >= 14);
    vmm_machine_free(machine);

    tries = 0;
    WORKS(vmm_sandbox_new(app, &sandbox, &error));
    vmm_sandbox_config_free(app);
    WORKS(vmm_sandbox_start(sandbox, NULL, &error));
    WORKS(vmm_sandbox_call(sandbox, "score", &text, 1, &score, &error));
    CHECK(score.integer == 14 && tries == 6);
    vmm_sandbox_free(sandbox);
}

int main(int argc, char **argv)
{
    static const vmm_testing_access script[] = {{4, 1, 0, 0}};
    static const char zeros[4096];
    vmm_snapshot *bare;
    size_t count = sizeof entries / sizeof *entries, n;
    uint32_t places = 0, place;
    FILE *file;

    if (argc == 1) {
        for (n = 0; n < count; n++)
            puts(entries[n].name);
        for (n = 0; n < sizeof in_callbacks / sizeof *in_callbacks; n++)
            puts(in_callbacks[n]);
        return 0;
    }
    CHECK(argc == 3 && mkdtemp(directory));
    program = argv[1], guest = argv[2];
    snprintf(base, sizeof base, "%s/base", directory);
    snprintf(top, sizeof top, "%s/top", directory);
    snprintf(lent, sizeof lent, "%s/lent", directory);
    snprintf(alone, sizeof alone, "%s/alone", directory);
    snprintf(another, sizeof another, "%s/another", directory);
    file = fopen(base, "wb");
    CHECK(file && fwrite(zeros, sizeof zeros, 1, file) == 1 && fclose(file) == 0);
    WORKS(vmm_testing_script(script, 1, &error));
    warm = started(application(NULL));
    WORKS(vmm_snapshot_save(warm, lent, &error));
    bare = started(vmm_sandbox_config_program(program));
    WORKS(vmm_snapshot_save(bare, alone, &error));
    vmm_snapshot_free(bare);

    for (n = 0; n < count; n++) {
        for (place = 1; panics(&entries[n], place); place++)
            places++;
        if (place == 1)
            fprintf(stderr, "%s: no place\n", entries[n].name);
        CHECK(place > 1);
    }
    callbacks();
    vmm_snapshot_free(warm);
    unlink(base), unlink(lent), unlink(alone);
    rmdir(directory);
    printf("%u panics, %d checks\n", places, checks);
    return 0;
}
