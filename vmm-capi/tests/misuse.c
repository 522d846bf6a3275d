/*
 * What a caller does wrong is an error that names it, and nothing worse.
 */

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

/* What runs the guests: the first argument. */
static const char *backend = "auto";

static const unsigned char halts[] = {0xf4, 0xf4, 0xf4};
static const unsigned char spins[] = {0xeb, 0xfe};
static const unsigned char knocks[] = {0xe4, 0x50, 0xf4};

static vmm_config *description(const unsigned char *guest, size_t size)
{
    vmm_config *config = vmm_config_new();
    vmm_config_set_backend(config, backend);
    vmm_config_set_memory(config, 1 << 20);
    vmm_config_set_interrupts(config, false);
    vmm_config_boot_long_mode(config, guest, size);
    return config;
}

static vmm_machine *machine_of(vmm_config *config)
{
    vmm_machine *machine;
    WORKS(vmm_machine_new(config, &machine, &error));
    vmm_config_free(config);
    return machine;
}

static void null_is_refused_by_devices_too(void)
{
    vmm_disk *disk;
    vmm_pool *pool;
    vmm_saved *saved;
    vmm_exits *exits;
    vmm_virtio *virtio;
    vmm_sandbox *sandbox;
    vmm_inspection *inspection;
    vmm_console *console;
    vmm_peer *peer;
    vmm_peer_ops peer_ops = {.struct_size = sizeof peer_ops};
    vmm_disk_ops disk_ops = {.struct_size = sizeof disk_ops};
    vmm_virtio_ops virtio_ops = {.struct_size = sizeof virtio_ops};
    vmm_disk_statistics statistics = {sizeof statistics, 0, 0, 0, 0, 0, 0, 0};

    vmm_disk_free(NULL);
    vmm_pool_free(NULL);
    vmm_exits_free(NULL);
    vmm_virtio_free(NULL);
    vmm_peer_free(NULL);
    vmm_console_free(NULL);
    vmm_console_set_room(NULL, 1);
    vmm_config_add_console(NULL, NULL);
    FAILS(vmm_peer_new(NULL, -1, -1, NULL, &peer, &error), VMM_STATUS_BAD_CONFIG, "ops is NULL");
    FAILS(vmm_peer_new(&peer_ops, -1, -1, NULL, &peer, &error), VMM_STATUS_BAD_CONFIG, "send is NULL");
    FAILS(vmm_peer_stream(-1, -1, &peer, &error), VMM_STATUS_BAD_CONFIG, "console output");
    FAILS(vmm_peer_stream(-1, 1, NULL, &error), VMM_STATUS_BAD_CONFIG, "peer is NULL");
    FAILS(vmm_console_new(NULL, &console, &error), VMM_STATUS_BAD_CONFIG, "peer is NULL");
    FAILS(vmm_console_add_port(NULL, "p", NULL, &error), VMM_STATUS_BAD_CONFIG, "console is NULL");
    FAILS(vmm_console_resize(NULL, 1, 1, &error), VMM_STATUS_BAD_CONFIG, "console is NULL");
    vmm_inspection_free(NULL);
    vmm_chain_free(NULL);
    vmm_chain_complete(NULL, 1);
    vmm_chain_fail(NULL, 1);
    vmm_saved_free(NULL);
    vmm_vm_cache_free(NULL);
    vmm_sandbox_config_set_vm_cache(NULL, NULL);
    CHECK(vmm_saved_data(NULL) == NULL && vmm_saved_size(NULL) == 0);
    vmm_config_boot_pvh(NULL, NULL, NULL, NULL);
    vmm_config_add_module(NULL, NULL, NULL);
    vmm_config_add_disk(NULL, NULL);
    vmm_config_add_virtio(NULL, NULL);
    vmm_config_add_rng(NULL, 0, 0);
    vmm_config_set_accounting(NULL, true);
    vmm_disk_set_read_only(NULL);
    vmm_disk_set_serial(NULL, NULL);
    vmm_disk_set_queues(NULL, 1);
    vmm_disk_set_limit(NULL, 1, 1);
    vmm_virtio_add_queue(NULL, 1);
    vmm_virtio_set_features(NULL, 1);
    vmm_io_config_changed(NULL);
    vmm_io_need_reset(NULL, NULL);
    vmm_io_hold(NULL, 0);
    vmm_io_resume(NULL, 0);
    CHECK(vmm_io_pop(NULL, 0) == NULL && vmm_io_features(NULL) == 0);
    CHECK(vmm_chain_queue(NULL) == 0 && !vmm_chain_is_current(NULL));
    CHECK(vmm_chain_readable(NULL) == 0 && vmm_chain_writable(NULL) == 0);
    CHECK(vmm_chain_read(NULL, 0, NULL, 9) == 0 && vmm_chain_write(NULL, 0, NULL, 9) == 0);
    CHECK(vmm_disk_size(NULL) == 0 && vmm_sandbox_unknown_calls(NULL, NULL, 0) == 0);
    CHECK(vmm_exits_size(NULL) == 0 && vmm_exits_at(NULL, 0) == NULL);
    CHECK(vmm_exits_traffic_size(NULL) == 0 && vmm_exits_traffic_at(NULL, 0) == NULL);
    CHECK(vmm_inspection_best(NULL) == VMM_BOOT_NONE && strcmp(vmm_inspection_text(NULL), "") == 0);

    FAILS(vmm_disk_open(NULL, &disk, &error), VMM_STATUS_BAD_CONFIG, "path is NULL");
    FAILS(vmm_disk_open_read_only("no/such/disk", &disk, &error), VMM_STATUS_HOST, "no/such/disk");
    CHECK(disk == NULL);
    FAILS(vmm_disk_memory(5, &disk, &error), VMM_STATUS_BAD_CONFIG, "5 bytes");
    FAILS(vmm_disk_memory(512, NULL, &error), VMM_STATUS_BAD_CONFIG, "disk is NULL");
    FAILS(vmm_disk_overlay_temporary(NULL, &disk, &error), VMM_STATUS_BAD_CONFIG, "base is NULL");
    FAILS(vmm_disk_overlay_create(NULL, "b", &disk, &error), VMM_STATUS_BAD_CONFIG, "path is NULL");
    FAILS(vmm_disk_overlay_open("p", NULL, &disk, &error), VMM_STATUS_BAD_CONFIG, "base is NULL");
    FAILS(vmm_disk_new(NULL, 512, NULL, &disk, &error), VMM_STATUS_BAD_CONFIG, "ops is NULL");
    FAILS(vmm_disk_new(&disk_ops, 512, NULL, &disk, &error), VMM_STATUS_BAD_CONFIG, "read is NULL");
    disk_ops.struct_size++;
    FAILS(vmm_disk_new(&disk_ops, 512, NULL, &disk, &error), VMM_STATUS_BAD_CONFIG, "struct_size");
    FAILS(vmm_disk_resize(NULL, 512, &error), VMM_STATUS_BAD_CONFIG, "disk is NULL");
    FAILS(vmm_disk_get_statistics(NULL, &statistics, &error), VMM_STATUS_BAD_CONFIG, "disk is NULL");
    FAILS(vmm_virtio_new("v", 42, NULL, NULL, &virtio, &error), VMM_STATUS_BAD_CONFIG, "ops is NULL");
    FAILS(vmm_virtio_new("v", 42, &virtio_ops, NULL, &virtio, &error), VMM_STATUS_BAD_CONFIG, "wake is NULL");
    FAILS(vmm_virtio_new(NULL, 42, &virtio_ops, NULL, &virtio, &error), VMM_STATUS_BAD_CONFIG, "name is NULL");
    virtio_ops.struct_size--;
    FAILS(vmm_virtio_new("v", 42, &virtio_ops, NULL, &virtio, &error), VMM_STATUS_BAD_CONFIG, "struct_size");
    FAILS(vmm_virtio_add_source(NULL, 0, &error), VMM_STATUS_BAD_CONFIG, "virtio is NULL");
    FAILS(vmm_machine_exits(NULL, &exits, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_sandbox_get_statistics(NULL, NULL, &error), VMM_STATUS_BAD_CONFIG, "sandbox is NULL");
    FAILS(vmm_pool_new(NULL, 1, &pool, &error), VMM_STATUS_BAD_CONFIG, "snapshot is NULL");
    FAILS(vmm_pool_take(NULL, 0, &sandbox, &error), VMM_STATUS_BAD_CONFIG, "pool is NULL");
    FAILS(vmm_pool_get_statistics(NULL, NULL, &error), VMM_STATUS_BAD_CONFIG, "pool is NULL");
    FAILS(vmm_vm_cache_new(1, NULL, &error), VMM_STATUS_BAD_CONFIG, "cache is NULL");
    FAILS(vmm_vm_cache_get_statistics(NULL, NULL, &error), VMM_STATUS_BAD_CONFIG, "cache is NULL");
    FAILS(vmm_machine_save(NULL, &saved, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_machine_restore(NULL, "", 1, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_machine_restore(NULL, NULL, 1, &error), VMM_STATUS_BAD_CONFIG, "data is NULL");
    FAILS(vmm_inspect(NULL, &inspection, &error), VMM_STATUS_BAD_CONFIG, "image is NULL");
    FAILS(vmm_inspect("no/such/image", &inspection, &error), VMM_STATUS_HOST, "no/such/image");
    FAILS(vmm_set_log(6, NULL, NULL, NULL, &error), VMM_STATUS_BAD_CONFIG, "level 6");
    FAILS(vmm_set_log(-1, NULL, NULL, NULL, &error), VMM_STATUS_BAD_CONFIG, "level -1");
    WORKS(vmm_set_log(VMM_LOG_LEVEL_OFF, NULL, NULL, NULL, &error));
}

static void null_is_refused_everywhere(void)
{
    vmm_machine *machine;
    vmm_sandbox *sandbox;
    vmm_snapshot *snapshot;
    vmm_obstacles *obstacles;
    vmm_outcome outcome;
    vmm_device *device;
    vmm_event event;
    vmm_view *view;
    vmm_regs regs;
    int32_t fd;

    vmm_config_free(NULL);
    vmm_machine_free(NULL);
    vmm_handle_free(NULL);
    vmm_device_free(NULL);
    vmm_view_free(NULL);
    vmm_report_free(NULL);
    vmm_error_free(NULL);
    vmm_sandbox_config_free(NULL);
    vmm_sandbox_free(NULL);
    vmm_canceller_free(NULL);

    vmm_config_set_memory(NULL, 1);
    vmm_config_set_vcpus(NULL, 1);
    vmm_config_set_backend(NULL, NULL);
    vmm_config_set_interrupts(NULL, true);
    vmm_config_boot_linux(NULL, NULL, NULL, NULL);
    vmm_config_boot_multiboot(NULL, NULL, NULL);
    vmm_config_boot_elf64(NULL, NULL, NULL);
    vmm_config_boot_long_mode(NULL, NULL, 0);
    vmm_config_boot_real_mode(NULL, NULL, 0);
    vmm_config_add_serial(NULL, -1, -1);
    vmm_config_add_rtc(NULL);
    vmm_config_add_i8042(NULL);
    vmm_config_add_debug_exit(NULL);
    vmm_config_add_device(NULL, NULL);
    vmm_sandbox_config_add_arg(NULL, NULL);
    vmm_sandbox_config_add_env(NULL, NULL, NULL);
    vmm_sandbox_config_set_stdin(NULL, NULL, 0);
    vmm_sandbox_config_add_host_fn(NULL, NULL, NULL, NULL, NULL);
    vmm_result_int64(NULL, 1);
    vmm_result_double(NULL, 1);
    vmm_result_bytes(NULL, NULL, 1);
    vmm_canceller_cancel(NULL);

    CHECK(vmm_machine_handle(NULL) == NULL && vmm_handle_clone(NULL) == NULL);
    CHECK(vmm_sandbox_canceller(NULL) == NULL);
    CHECK(strcmp(vmm_machine_backend(NULL), "") == 0);
    CHECK(strcmp(vmm_machine_backend_reason(NULL), "") == 0);
    CHECK(strcmp(vmm_error_message(NULL), "") == 0 && vmm_error_os(NULL) == 0);
    CHECK(vmm_error_status(NULL) == VMM_STATUS_OK);
    CHECK(vmm_view_data(NULL) == NULL && vmm_view_size(NULL) == 0);
    CHECK(strcmp(vmm_report_text(NULL), "") == 0 && vmm_report_kvm(NULL) == VMM_KVM_KIND_NONE);
    CHECK(vmm_sandbox_take_stdout(NULL, NULL, 0) == 0 && vmm_sandbox_take_stderr(NULL, NULL, 9) == 0);

    FAILS(vmm_machine_new(NULL, &machine, &error), VMM_STATUS_BAD_CONFIG, "config is NULL");
    CHECK(machine == NULL);
    FAILS(vmm_machine_run(NULL, &outcome, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_machine_start(NULL, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_machine_reset(NULL, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_machine_event_fd(NULL, &fd, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_machine_next_event(NULL, &event, &outcome, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_machine_get_regs(NULL, 0, &regs, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_machine_set_regs(NULL, 0, &regs, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_machine_read(NULL, 0, &fd, 4, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_machine_write(NULL, 0, &fd, 4, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_machine_view(NULL, 0, 4, &view, &error), VMM_STATUS_BAD_CONFIG, "machine is NULL");
    FAILS(vmm_handle_stop(NULL, &error), VMM_STATUS_BAD_CONFIG, "handle is NULL");
    FAILS(vmm_handle_pause(NULL, 1, &error), VMM_STATUS_BAD_CONFIG, "handle is NULL");
    FAILS(vmm_handle_request_pause(NULL, &error), VMM_STATUS_BAD_CONFIG, "handle is NULL");
    FAILS(vmm_handle_resume(NULL, &error), VMM_STATUS_BAD_CONFIG, "handle is NULL");
    FAILS(vmm_handle_state(NULL, NULL, &error), VMM_STATUS_BAD_CONFIG, "handle is NULL");
    FAILS(vmm_device_new("d", NULL, NULL, &device, &error), VMM_STATUS_BAD_CONFIG, "ops is NULL");
    FAILS(vmm_device_add_ports(NULL, 0, 1, &error), VMM_STATUS_BAD_CONFIG, "device is NULL");
    FAILS(vmm_device_add_mmio(NULL, 0, 1, &error), VMM_STATUS_BAD_CONFIG, "device is NULL");
    FAILS(vmm_device_add_irq(NULL, &error), VMM_STATUS_BAD_CONFIG, "device is NULL");
    FAILS(vmm_device_interrupt(NULL, &error), VMM_STATUS_BAD_CONFIG, "device is NULL");
    FAILS(vmm_probe(NULL, &error), VMM_STATUS_BAD_CONFIG, "report is NULL");
    FAILS(vmm_sandbox_new(NULL, &sandbox, &error), VMM_STATUS_BAD_CONFIG, "config is NULL");
    CHECK(sandbox == NULL);
    FAILS(vmm_sandbox_start(NULL, &outcome, &error), VMM_STATUS_BAD_CONFIG, "sandbox is NULL");
    FAILS(vmm_sandbox_call(NULL, "f", NULL, 0, NULL, &error), VMM_STATUS_BAD_CONFIG, "sandbox is NULL");
    FAILS(vmm_sandbox_get_state(NULL, NULL, &error), VMM_STATUS_BAD_CONFIG, "sandbox is NULL");
    FAILS(vmm_sandbox_snapshot(NULL, &snapshot, &error), VMM_STATUS_BAD_CONFIG, "sandbox is NULL");
    FAILS(vmm_sandbox_reset(NULL, NULL, &error), VMM_STATUS_BAD_CONFIG, "to is NULL");
    FAILS(vmm_snapshot_fork(NULL, &sandbox, &error), VMM_STATUS_BAD_CONFIG, "snapshot is NULL");
    FAILS(vmm_snapshot_save(NULL, "p", &error), VMM_STATUS_BAD_CONFIG, "snapshot is NULL");
    FAILS(vmm_snapshot_save(NULL, NULL, &error), VMM_STATUS_BAD_CONFIG, "path is NULL");
    FAILS(vmm_snapshot_open(NULL, &snapshot, &error), VMM_STATUS_BAD_CONFIG, "path is NULL");
    FAILS(vmm_snapshot_open("no/such/file", NULL, &error), VMM_STATUS_BAD_CONFIG, "snapshot is NULL");
    FAILS(vmm_snapshot_open("/dev/null", &snapshot, &error), VMM_STATUS_SNAPSHOT, "not a regular file");
    FAILS(vmm_sandbox_config_check(NULL, &obstacles, &error), VMM_STATUS_BAD_CONFIG, "config is NULL");
    FAILS(vmm_sandbox_config_check(NULL, NULL, &error), VMM_STATUS_BAD_CONFIG, "obstacles is NULL");
    CHECK(vmm_obstacles_size(NULL) == 0 && vmm_obstacles_at(NULL, 0) == NULL);
    vmm_sandbox_config_set_baseline_only(NULL);
    vmm_obstacles_free(NULL);
    vmm_snapshot_free(NULL);
    null_is_refused_by_devices_too();
    /* And nobody has to look at the error. */
    CHECK(vmm_machine_reset(NULL, NULL) == VMM_STATUS_BAD_CONFIG);
}

static void wrong_settings_are_named(void)
{
    vmm_machine *machine;
    vmm_config *config = description(halts, sizeof halts);

    vmm_config_set_memory(config, 4097);
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_BAD_CONFIG, "0x1001");
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_WRONG_STATE, "before");
    vmm_config_set_memory(config, 4096);
    vmm_config_free(config);

    config = description(NULL, 5);
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_BAD_CONFIG, "image is NULL");
    vmm_config_free(config);

    config = description(halts, sizeof halts);
    vmm_config_set_backend(config, "steam");
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_BAD_CONFIG, "steam");
    vmm_config_free(config);

    config = description(halts, sizeof halts);
    vmm_config_add_serial(config, -1, 1000000);
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_HOST, "serial output");
    vmm_config_free(config);

    config = description(halts, sizeof halts);
    vmm_config_add_serial(config, -7, -1);
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_BAD_CONFIG, "descriptor -7");
    vmm_config_free(config);

    config = description(halts, sizeof halts);
    vmm_config_boot_linux(config, "no/such/kernel", NULL, "\xff");
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_BAD_CONFIG, "cmdline");
    vmm_config_free(config);

    config = description(halts, sizeof halts);
    vmm_config_boot_linux(config, "no/such/kernel", NULL, NULL);
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_HOST, "no/such/kernel");
    vmm_config_free(config);

    config = vmm_config_new();
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_BAD_CONFIG, "without");
    vmm_config_free(config);
    CHECK(!vmm_abi_check(VMM_ABI + 1) && !vmm_abi_check(0) && vmm_abi_check(VMM_ABI));
}

static void machines_go_by_their_state(void)
{
    vmm_machine *machine = machine_of(description(halts, sizeof halts));
    vmm_handle *handle = vmm_machine_handle(machine), *second = vmm_handle_clone(handle);
    vmm_machine_state state;
    vmm_outcome outcome;
    vmm_event event;
    vmm_regs regs;
    unsigned char bytes[16] = {0};
    vmm_view *view;

    WORKS(vmm_machine_run(machine, NULL, &error));
    WORKS(vmm_machine_run(machine, &outcome, &error));
    CHECK(outcome.ending == VMM_ENDING_HALTED && strcmp(outcome.text, "halted") == 0);
    WORKS(vmm_machine_get_regs(machine, 0, &regs, &error));
    CHECK(regs.rip == 0x10002);
    WORKS(vmm_machine_reset(machine, &error));
    WORKS(vmm_machine_run(machine, &outcome, &error));
    WORKS(vmm_machine_get_regs(machine, 0, &regs, &error));
    CHECK(regs.rip == 0x10001);
    regs.rip = 0x10000;
    WORKS(vmm_machine_set_regs(machine, 0, &regs, &error));
    FAILS(vmm_machine_get_regs(machine, 1, &regs, &error), VMM_STATUS_NOT_FOUND, "1");
    FAILS(vmm_machine_get_regs(machine, 0, NULL, &error), VMM_STATUS_BAD_CONFIG, "regs is NULL");

    WORKS(vmm_machine_read(machine, 0x10000, bytes, 3, &error));
    CHECK(memcmp(bytes, halts, 3) == 0);
    FAILS(vmm_machine_read(machine, (1 << 20) - 8, bytes, 16, &error), VMM_STATUS_GUEST_MEMORY, "");
    FAILS(vmm_machine_write(machine, UINT64_MAX, bytes, 16, &error), VMM_STATUS_GUEST_MEMORY, "");
    FAILS(vmm_machine_write(machine, 0, NULL, 16, &error), VMM_STATUS_BAD_CONFIG, "data is NULL");
    FAILS(vmm_machine_view(machine, 0, 2 << 20, &view, &error), VMM_STATUS_GUEST_MEMORY, "");
    FAILS(vmm_machine_view(machine, 0, 0, &view, &error), VMM_STATUS_GUEST_MEMORY, "");
    WORKS(vmm_machine_view(machine, 0x10000, 3, &view, &error));
    CHECK(memcmp(vmm_view_data(view), halts, vmm_view_size(view)) == 0);

    WORKS(vmm_handle_state(handle, &state, &error));
    CHECK(state == VMM_MACHINE_STATE_READY);
    WORKS(vmm_handle_stop(second, &error));
    FAILS(vmm_machine_run(machine, &outcome, &error), VMM_STATUS_WRONG_STATE, "");
    WORKS(vmm_machine_next_event(machine, &event, &outcome, &error));
    CHECK(event == VMM_EVENT_ENDED && outcome.ending == VMM_ENDING_STOPPED);
    WORKS(vmm_machine_next_event(machine, &event, NULL, &error));
    CHECK(event == VMM_EVENT_NONE);
    FAILS(vmm_machine_reset(machine, &error), VMM_STATUS_WRONG_STATE, "stopped");

    vmm_machine_free(machine);
    CHECK(memcmp(vmm_view_data(view), halts, 3) == 0);
    vmm_view_free(view);
    WORKS(vmm_handle_state(handle, &state, &error));
    CHECK(state == VMM_MACHINE_STATE_ENDED);
    WORKS(vmm_handle_stop(handle, &error));
    FAILS(vmm_handle_pause(handle, 1, &error), VMM_STATUS_WRONG_STATE, "gone");
    vmm_handle_free(handle);
    vmm_handle_free(second);
}

static void a_machine_runs_beside_its_program(void)
{
    vmm_machine *machine = machine_of(description(spins, sizeof spins));
    vmm_handle *handle = vmm_machine_handle(machine);
    vmm_event event;
    vmm_regs regs;
    struct pollfd waiting = {-1, POLLIN, 0};
    vmm_outcome outcome;

    WORKS(vmm_machine_event_fd(machine, &waiting.fd, &error));
    WORKS(vmm_machine_start(machine, &error));
    FAILS(vmm_machine_start(machine, &error), VMM_STATUS_WRONG_STATE, "being run");
    WORKS(vmm_handle_pause(handle, UINT64_C(60000000000), &error));
    WORKS(vmm_machine_get_regs(machine, 0, &regs, &error));
    CHECK(regs.rip == 0x10000);
    FAILS(vmm_machine_run(machine, NULL, &error), VMM_STATUS_WRONG_STATE, "");
    WORKS(vmm_machine_next_event(machine, &event, NULL, &error));
    CHECK(event == VMM_EVENT_PAUSED);
    WORKS(vmm_handle_resume(handle, &error));
    WORKS(vmm_handle_stop(handle, &error));
    CHECK(poll(&waiting, 1, 60000) == 1);
    WORKS(vmm_machine_next_event(machine, &event, &outcome, &error));
    CHECK(event == VMM_EVENT_ENDED && outcome.ending == VMM_ENDING_STOPPED);
    vmm_machine_free(machine);
    vmm_handle_free(handle);

    /* And one that is freed while it runs. */
    machine = machine_of(description(spins, sizeof spins));
    WORKS(vmm_machine_start(machine, &error));
    vmm_machine_free(machine);
}

struct model {
    vmm_machine *machine;
    int reads, drops;
    int32_t answer;
};

static int32_t model_read(void *user, uint32_t window, uint64_t offset, uint8_t *data, size_t size)
{
    struct model *model = user;
    CHECK(window == 0 && offset == 0 && size == 1 && data[0] == 0xff);
    model->reads++;
    FAILS(vmm_machine_run(model->machine, NULL, &error), VMM_STATUS_IN_CALLBACK, "");
    FAILS(vmm_machine_reset(model->machine, &error), VMM_STATUS_IN_CALLBACK, "");
    data[0] = 7;
    return model->answer;
}

static void model_drop(void *user)
{
    ((struct model *)user)->drops++;
}

static void devices_answer_for_themselves(void)
{
    static const int32_t answers[] = {VMM_FLOW_CONTINUE, VMM_FLOW_RESET, VMM_FLOW_FAIL, 99, VMM_FLOW_POWER_OFF + 9};
    static const vmm_ending endings[] = {VMM_ENDING_HALTED, VMM_ENDING_RESET, 0, 0, VMM_ENDING_POWER_OFF};
    vmm_device_ops ops = {.struct_size = sizeof ops, .read = model_read, .drop = model_drop};
    struct model model = {NULL, 0, 0, 0};
    vmm_device *device;
    vmm_machine *other;
    vmm_outcome outcome;
    vmm_regs regs;
    size_t i;

    ops.struct_size--;
    FAILS(vmm_device_new("d", &ops, &model, &device, &error), VMM_STATUS_BAD_CONFIG, "struct_size");
    ops.struct_size++;
    FAILS(vmm_device_new(NULL, &ops, &model, &device, &error), VMM_STATUS_BAD_CONFIG, "name is NULL");
    CHECK(model.drops == 0);

    for (i = 0; i < sizeof answers / sizeof *answers; i++) {
        vmm_config *config = description(knocks, sizeof knocks), *second = description(halts, sizeof halts);
        WORKS(vmm_device_new("model", &ops, &model, &device, &error));
        FAILS(vmm_device_interrupt(device, &error), VMM_STATUS_WRONG_STATE, "model");
        WORKS(vmm_device_add_ports(device, 0x50, 1, &error));
        vmm_config_add_device(config, device);
        vmm_config_add_device(second, device);
        FAILS(vmm_device_add_mmio(device, VMM_ANYWHERE, 8, &error), VMM_STATUS_WRONG_STATE, "model");
        FAILS(vmm_machine_new(second, &other, &error), VMM_STATUS_WRONG_STATE, "model");
        vmm_config_free(second);
        vmm_device_free(device);
        model = (struct model){machine_of(config), 0, 0, answers[i]};
        if (endings[i]) {
            WORKS(vmm_machine_run(model.machine, &outcome, &error));
            CHECK(outcome.ending == endings[i]);
            CHECK(outcome.ending != VMM_ENDING_POWER_OFF || outcome.code == 9);
            WORKS(vmm_machine_get_regs(model.machine, 0, &regs, &error));
            CHECK((regs.rax & 0xff) == 7);
        } else {
            FAILS(vmm_machine_run(model.machine, &outcome, &error), VMM_STATUS_POISONED, "model");
            FAILS(vmm_machine_get_regs(model.machine, 0, &regs, &error), VMM_STATUS_POISONED, "model");
        }
        CHECK(model.reads == 1 && model.drops == 0);
        vmm_machine_free(model.machine);
        CHECK(model.drops == 1);
    }

    model.drops = 0;
    WORKS(vmm_device_new("model", &ops, &model, &device, &error));
    vmm_device_free(device);
    CHECK(model.drops == 1);
}

static int32_t refuses(void *user, const vmm_value *arguments, size_t count, vmm_result *result)
{
    (void)user, (void)arguments, (void)count, (void)result;
    return 1;
}

static void sandboxes_say_what_is_wrong(void)
{
    struct model model = {NULL, 0, 0, 0};
    vmm_sandbox *sandbox;
    vmm_obstacles *obstacles;
    vmm_sandbox_config *config = vmm_sandbox_config_program("no/such/program");
    vmm_sandbox_config_add_host_fn(config, "f", refuses, &model, model_drop);
    FAILS(vmm_sandbox_new(config, &sandbox, &error), VMM_STATUS_HOST, "no/such/program");
    CHECK(sandbox == NULL && model.drops == 1);
    FAILS(vmm_sandbox_new(config, &sandbox, &error), VMM_STATUS_WRONG_STATE, "before");
    vmm_sandbox_config_free(config);

    config = vmm_sandbox_config_image("#!/bin/sh", 9);
    FAILS(vmm_sandbox_new(config, &sandbox, &error), VMM_STATUS_BAD_IMAGE, "");
    vmm_sandbox_config_free(config);

    config = vmm_sandbox_config_image(NULL, 9);
    FAILS(vmm_sandbox_new(config, &sandbox, &error), VMM_STATUS_BAD_CONFIG, "data is NULL");
    vmm_sandbox_config_free(config);

    config = vmm_sandbox_config_saved(NULL);
    FAILS(vmm_sandbox_config_check(config, &obstacles, &error), VMM_STATUS_BAD_CONFIG, "path is NULL");
    FAILS(vmm_sandbox_new(config, &sandbox, &error), VMM_STATUS_BAD_CONFIG, "path is NULL");
    vmm_sandbox_config_free(config);

    /* Of a program that is started nothing stands in the way. */
    config = vmm_sandbox_config_image("#!/bin/sh", 9);
    WORKS(vmm_sandbox_config_check(config, &obstacles, &error));
    CHECK(vmm_obstacles_size(obstacles) == 0 && vmm_obstacles_at(obstacles, 0) == NULL);
    vmm_obstacles_free(obstacles);
    vmm_sandbox_config_set_backend(config, "steam");
    FAILS(vmm_sandbox_config_check(config, &obstacles, &error), VMM_STATUS_BAD_CONFIG, "steam");
    vmm_sandbox_config_free(config);

    config = vmm_sandbox_config_program(NULL);
    vmm_sandbox_config_add_host_fn(config, NULL, NULL, &model, model_drop);
    CHECK(model.drops == 2);
    FAILS(vmm_sandbox_new(config, &sandbox, &error), VMM_STATUS_BAD_CONFIG, "path is NULL");
    vmm_sandbox_config_free(config);
}

static void a_child_of_fork_has_nothing(void)
{
    vmm_machine *machine = machine_of(description(halts, sizeof halts));
    vmm_handle *handle = vmm_machine_handle(machine);
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        FAILS(vmm_machine_run(machine, NULL, &error), VMM_STATUS_WRONG_PROCESS, "");
        FAILS(vmm_handle_stop(handle, &error), VMM_STATUS_WRONG_PROCESS, "");
        vmm_machine_free(machine);
        vmm_handle_free(handle);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    WORKS(vmm_machine_run(machine, NULL, &error));
    vmm_machine_free(machine);
    vmm_handle_free(handle);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        backend = argv[1];
    null_is_refused_everywhere();
    wrong_settings_are_named();
    machines_go_by_their_state();
    a_machine_runs_beside_its_program();
    devices_answer_for_themselves();
    sandboxes_say_what_is_wrong();
    a_child_of_fork_has_nothing();
    printf("%d checks\n", checks);
    return 0;
}
