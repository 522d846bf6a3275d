/*
 * Disks and virtio devices of the caller's own, driven by a guest: devices GUEST, which is guests/driver.c.
 */

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "check.h"

static const char *guest;

static vmm_config *description(const char *what)
{
    vmm_config *config = vmm_config_new();
    vmm_config_set_backend(config, "soft");
    vmm_config_set_memory(config, 4 << 20);
    vmm_config_boot_elf64(config, guest, what);
    vmm_config_add_debug_exit(config);
    vmm_config_set_accounting(config, false);
    return config;
}

static vmm_machine *machine_of(vmm_config *config)
{
    vmm_machine *machine;
    WORKS(vmm_machine_new(config, &machine, &error));
    vmm_config_free(config);
    return machine;
}

static void ends_with(vmm_machine *machine, int32_t code)
{
    vmm_outcome outcome;
    WORKS(vmm_machine_run(machine, &outcome, &error));
    if (outcome.ending != VMM_ENDING_POWER_OFF || outcome.code != code)
        fprintf(stderr, "'%s'\n", outcome.text);
    CHECK(outcome.ending == VMM_ENDING_POWER_OFF && outcome.code == code);
}

struct disk {
    uint8_t bytes[16 * 512];
    int reads, writes, flushes, drops, fails;
    uint64_t resized;
};

static int32_t disk_read(void *user, uint64_t at, uint8_t *data, size_t size)
{
    struct disk *disk = user;
    disk->reads++;
    CHECK(at + size <= sizeof disk->bytes);
    memcpy(data, disk->bytes + at, size);
    return disk->fails;
}

static int32_t disk_write(void *user, uint64_t at, const uint8_t *data, size_t size)
{
    struct disk *disk = user;
    disk->writes++;
    CHECK(at + size <= sizeof disk->bytes);
    memcpy(disk->bytes + at, data, size);
    return disk->fails;
}

static int32_t disk_flush(void *user)
{
    struct disk *disk = user;
    disk->flushes++;
    return disk->fails;
}

static int32_t disk_resize(void *user, uint64_t size)
{
    struct disk *disk = user;
    disk->resized = size;
    return size > 4096 ? ENOSPC : 0;
}

static void disk_drop(void *user)
{
    ((struct disk *)user)->drops++;
}

static const vmm_disk_ops disk_ops = {
    .struct_size = sizeof disk_ops,
    .read = disk_read,
    .write = disk_write,
    .flush = disk_flush,
    .resize = disk_resize,
    .drop = disk_drop,
};

static void a_disk_of_ones_own_serves_a_guest(int fails)
{
    static struct disk model;
    vmm_disk_statistics statistics = {sizeof statistics, 0, 0, 0, 0, 0, 0, 0};
    vmm_disk *disk;
    vmm_machine *machine;
    vmm_config *config = description(fails ? "broken" : "disk"), *second = description("disk");
    size_t n;

    memset(&model, 0, sizeof model);
    model.fails = fails;
    WORKS(vmm_disk_new(&disk_ops, sizeof model.bytes, &model, &disk, &error));
    CHECK(vmm_disk_size(disk) == sizeof model.bytes);
    vmm_disk_set_serial(disk, "0123456789");
    vmm_config_add_disk(config, disk);
    vmm_config_add_disk(second, disk);
    FAILS(vmm_machine_new(second, &machine, &error), VMM_STATUS_WRONG_STATE, "disk");
    vmm_config_free(second);
    machine = machine_of(config);
    ends_with(machine, 0);
    CHECK(model.reads == 1 && model.writes == 1 && model.flushes == 1 && model.drops == 0);
    for (n = 0; n < 512; n++)
        CHECK(model.bytes[3 * 512 + n] == (uint8_t)(n * 7));
    WORKS(vmm_disk_get_statistics(disk, &statistics, &error));
    CHECK(statistics.struct_size == sizeof statistics);
    if (fails) {
        CHECK(statistics.reads == 0 && statistics.writes == 0 && statistics.errors == 4);
    } else {
        CHECK(statistics.reads == 1 && statistics.read_bytes == 512 && statistics.writes == 1);
        CHECK(statistics.written_bytes == 512 && statistics.flushes == 1 && statistics.errors == 1);
    }
    statistics.struct_size = offsetof(vmm_disk_statistics, writes);
    statistics.reads = statistics.writes = 99;
    WORKS(vmm_disk_get_statistics(disk, &statistics, &error));
    CHECK(statistics.reads != 99 && statistics.writes == 99);
    statistics.struct_size = 1;
    FAILS(vmm_disk_get_statistics(disk, &statistics, &error), VMM_STATUS_BAD_CONFIG, "struct_size");
    WORKS(vmm_disk_resize(disk, 4096, &error));
    CHECK(model.resized == 4096 && vmm_disk_size(disk) == 4096);
    FAILS(vmm_disk_resize(disk, 8192, &error), VMM_STATUS_HOST, "8192");
    FAILS(vmm_disk_resize(disk, 5, &error), VMM_STATUS_BAD_CONFIG, "5");
    vmm_machine_free(machine);
    CHECK(model.drops == 0 && vmm_disk_size(disk) == 4096);
    vmm_disk_free(disk);
    CHECK(model.drops == 1);
}

static void disks_of_the_library_serve_a_guest(const char *directory)
{
    char base[512], top[512];
    static const char zeros[16 * 512];
    uint8_t sector[512];
    vmm_machine *machine;
    vmm_disk *disk;
    vmm_config *config;
    FILE *file;
    int n;

    snprintf(base, sizeof base, "%s/base", directory);
    snprintf(top, sizeof top, "%s/top", directory);
    file = fopen(base, "wb");
    CHECK(file && fwrite(zeros, 1, sizeof zeros, file) == sizeof zeros && fclose(file) == 0);
    for (n = 0; n < 5; n++) {
        switch (n) {
        case 0: WORKS(vmm_disk_memory(sizeof zeros, &disk, &error)); break;
        case 1: WORKS(vmm_disk_overlay_temporary(base, &disk, &error)); break;
        case 2: WORKS(vmm_disk_overlay_create(top, base, &disk, &error)); break;
        case 3: WORKS(vmm_disk_overlay_open(top, base, &disk, &error)); break;
        case 4: WORKS(vmm_disk_open(base, &disk, &error)); break;
        }
        vmm_disk_set_queues(disk, 2);
        vmm_disk_set_limit(disk, 1 << 20, 1 << 20);
        config = description("disk");
        vmm_config_add_disk(config, disk);
        machine = machine_of(config);
        vmm_disk_free(disk);
        ends_with(machine, 0);
        vmm_machine_free(machine);
        /* Only the last one writes to the file itself. */
        file = fopen(base, "rb");
        CHECK(file && fseek(file, 3 * 512, SEEK_SET) == 0 && fread(sector, 1, 512, file) == 512 && fclose(file) == 0);
        CHECK(sector[1] == (n == 4 ? 7 : 0));
    }
    FAILS(vmm_disk_overlay_create(top, base, &disk, &error), VMM_STATUS_HOST, "top");
    FAILS(vmm_disk_overlay_open(base, base, &disk, &error), VMM_STATUS_BAD_IMAGE, "base");

    WORKS(vmm_disk_open_read_only(base, &disk, &error));
    config = description("disk");
    vmm_config_add_disk(config, disk);
    vmm_disk_free(disk);
    machine = machine_of(config);
    ends_with(machine, 21);
    vmm_machine_free(machine);

    /* What was set wrong is told when the machine is made. */
    WORKS(vmm_disk_memory(512, &disk, &error));
    vmm_disk_set_serial(disk, "a serial number of more than 20 bytes");
    config = description("disk");
    vmm_config_add_disk(config, disk);
    vmm_disk_free(disk);
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_BAD_CONFIG, "20 bytes");
    vmm_config_free(config);
}

struct mirror {
    uint32_t written;
    int wakes, resets, drops, sources, fails, fd;
    vmm_chain *kept;
};

static int32_t mirror_wake(void *user, vmm_io *io, int32_t source)
{
    struct mirror *mirror = user;
    vmm_chain *chain;
    char data[16];
    mirror->wakes++;
    if (mirror->fails)
        return 5;
    if (source == 0) {
        CHECK(read(mirror->fd, data, 1) == 1);
        mirror->sources++;
        vmm_io_hold(io, 0);
        vmm_io_resume(io, 0);
        if (mirror->kept) {
            vmm_chain_fail(mirror->kept, 5);
            mirror->kept = NULL;
        }
    } else {
        CHECK(source == VMM_WAKE_QUEUES);
    }
    while ((chain = vmm_io_pop(io, 0)) != NULL) {
        size_t size = vmm_chain_read(chain, 0, data, sizeof data), n;
        CHECK(vmm_io_features(io) >> 32 == 1);
        CHECK(vmm_chain_queue(chain) == 0 && vmm_chain_is_current(chain));
        CHECK(size == 5 && vmm_chain_readable(chain) == 5 && vmm_chain_writable(chain) == 16);
        for (n = 0; n < size; n++)
            CHECK(vmm_chain_write(chain, size - 1 - n, data + n, 1) == 1);
        CHECK(vmm_chain_write(chain, 10, data, sizeof data) == 6);
        /* Completed when the source is ready. */
        mirror->kept = chain;
    }
    CHECK(vmm_io_pop(io, 1) == NULL);
    vmm_io_config_changed(io);
    return 0;
}

static void mirror_read(void *user, uint64_t offset, uint8_t *data, size_t size)
{
    static const uint8_t config[] = {0x44, 0x33, 0x22, 0x11};
    size_t n;
    (void)user;
    for (n = 0; n < size && offset + n < sizeof config; n++)
        data[n] = config[offset + n];
}

static void mirror_write(void *user, uint64_t offset, const uint8_t *data, size_t size)
{
    struct mirror *mirror = user;
    CHECK(offset == 4 && size == 4);
    memcpy(&mirror->written, data, size);
}

static void mirror_reset(void *user)
{
    struct mirror *mirror = user;
    mirror->resets++;
    vmm_chain_free(mirror->kept);
    mirror->kept = NULL;
}

static void mirror_drop(void *user)
{
    ((struct mirror *)user)->drops++;
}

static int32_t mirror_save(void *user, vmm_result *state)
{
    struct mirror *mirror = user;
    vmm_result_bytes(state, &mirror->written, sizeof mirror->written);
    return mirror->fails;
}

static int32_t mirror_restore(void *user, const uint8_t *state, size_t size)
{
    struct mirror *mirror = user;
    if (size != sizeof mirror->written)
        return EINVAL;
    memcpy(&mirror->written, state, size);
    return mirror->fails;
}

static const vmm_virtio_ops mirror_ops = {
    .struct_size = sizeof mirror_ops,
    .wake = mirror_wake,
    .read_config = mirror_read,
    .write_config = mirror_write,
    .reset = mirror_reset,
    .drop = mirror_drop,
    .save = mirror_save,
    .restore = mirror_restore,
};

static void a_virtio_device_of_ones_own_serves_a_guest(void)
{
    struct mirror model;
    vmm_config *config = description("echo");
    vmm_machine *machine;
    vmm_virtio *virtio;
    vmm_exits *exits;
    const vmm_traffic *traffic;
    int ends[2];
    size_t n;
    bool seen = false;

    memset(&model, 0, sizeof model);
    CHECK(pipe(ends) == 0 && write(ends[1], "!", 1) == 1);
    model.fd = ends[0];
    WORKS(vmm_virtio_new("mirror", 42, &mirror_ops, &model, &virtio, &error));
    vmm_virtio_add_queue(virtio, 64);
    vmm_virtio_set_features(virtio, 1);
    WORKS(vmm_virtio_add_source(virtio, ends[0], &error));
    FAILS(vmm_virtio_add_source(virtio, 1000000, &error), VMM_STATUS_HOST, "source");
    vmm_config_add_virtio(config, virtio);
    FAILS(vmm_virtio_add_source(virtio, ends[0], &error), VMM_STATUS_WRONG_STATE, "virtio");
    vmm_virtio_free(virtio);
    machine = machine_of(config);
    /* Whichever comes first, the question or what is in the pipe, the other is told of later. */
    WORKS(vmm_machine_start(machine, &error));
    for (;;) {
        struct pollfd ready = {-1, POLLIN, 0};
        vmm_outcome outcome;
        vmm_event event;
        WORKS(vmm_machine_event_fd(machine, &ready.fd, &error));
        CHECK(poll(&ready, 1, 10) >= 0 && write(ends[1], "!", 1) == 1);
        WORKS(vmm_machine_next_event(machine, &event, &outcome, &error));
        if (event == VMM_EVENT_ENDED) {
            if (outcome.code != 0)
                fprintf(stderr, "'%s'\n", outcome.text);
            CHECK(outcome.ending == VMM_ENDING_POWER_OFF && outcome.code == 0);
            break;
        }
    }
    CHECK(model.written == 7 && model.sources >= 1 && model.wakes >= 2 && model.drops == 0);
    WORKS(vmm_machine_exits(machine, &exits, &error));
    for (n = 0; n < vmm_exits_size(exits); n++) {
        const vmm_exit_count *count = vmm_exits_at(exits, n);
        seen |= count->is_device && strcmp(count->name, "mirror") == 0 && count->exits > 10;
    }
    CHECK(seen && vmm_exits_at(exits, n) == NULL);
    CHECK(vmm_exits_traffic_size(exits) == 1 && vmm_exits_traffic_at(exits, 1) == NULL);
    traffic = vmm_exits_traffic_at(exits, 0);
    CHECK(strcmp(traffic->name, "mirror") == 0 && traffic->requests == 1 && traffic->errors == 1);
    /* A bell that was not heard before the end is not counted. */
    CHECK(traffic->read_bytes == 5 && traffic->written_bytes == 5 && traffic->notifications <= 1);
    vmm_exits_free(exits);
    n = model.resets;
    WORKS(vmm_machine_reset(machine, &error));
    CHECK(model.resets == (int)n + 1);
    vmm_machine_free(machine);
    CHECK(model.drops == 1);
    close(ends[0]);
    close(ends[1]);
}

static void a_virtio_device_that_fails_ends_the_run(void)
{
    struct mirror model;
    vmm_config *config = description("echo");
    vmm_machine *machine;
    vmm_virtio *virtio;

    memset(&model, 0, sizeof model);
    model.fails = 1;
    WORKS(vmm_virtio_new("mirror", 42, &mirror_ops, &model, &virtio, &error));
    vmm_virtio_add_queue(virtio, 64);
    vmm_config_add_virtio(config, virtio);
    vmm_virtio_free(virtio);
    machine = machine_of(config);
    FAILS(vmm_machine_run(machine, NULL, &error), VMM_STATUS_POISONED, "mirror");
    vmm_machine_free(machine);
    CHECK(model.drops == 1);

    /* And one with a queue that no ring can have is refused. */
    WORKS(vmm_virtio_new("mirror", 42, &mirror_ops, &model, &virtio, &error));
    vmm_virtio_add_queue(virtio, 65);
    config = description("echo");
    vmm_config_add_virtio(config, virtio);
    vmm_virtio_free(virtio);
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_BAD_CONFIG, "65");
    vmm_config_free(config);
}

static void a_source_of_random_numbers_is_found(void)
{
    vmm_config *config = description("disk");
    vmm_machine *machine;
    vmm_config_add_rng(config, 0, 0);
    machine = machine_of(config);
    ends_with(machine, 2); /* It is no disk. */
    vmm_machine_free(machine);
    config = description("disk");
    vmm_config_add_rng(config, 0, 1);
    FAILS(vmm_machine_new(config, &machine, &error), VMM_STATUS_BAD_CONFIG, "nothing would pass");
    vmm_config_free(config);
}

struct peer {
    char said[16];
    size_t size;
    int fd, drops, receives;
};

static ptrdiff_t peer_send(void *user, const uint8_t *data, size_t size)
{
    struct peer *peer = user;
    CHECK(peer->size + size <= sizeof peer->said);
    memcpy(peer->said + peer->size, data, size);
    peer->size += size;
    return (ptrdiff_t)size;
}

static ptrdiff_t peer_receive(void *user, uint8_t *data, size_t size)
{
    struct peer *peer = user;
    ptrdiff_t got;
    if (peer->receives++ > 0)
        return -EAGAIN;
    got = read(peer->fd, data, size);
    return got < 0 ? -errno : got;
}

static void peer_drop(void *user)
{
    ((struct peer *)user)->drops++;
}

static const vmm_peer_ops peer_ops = {
    .struct_size = sizeof peer_ops, .send = peer_send, .receive = peer_receive, .drop = peer_drop,
};

static void a_console_talks_to_a_guest(bool streams)
{
    struct peer model;
    vmm_config *config = description("console");
    vmm_console *console;
    vmm_machine *machine;
    vmm_peer *peer, *port;
    int in[2], out[2];

    memset(&model, 0, sizeof model);
    CHECK(pipe(in) == 0 && pipe(out) == 0 && write(in[1], "input", 5) == 5);
    model.fd = in[0];
    if (streams)
        WORKS(vmm_peer_stream(in[0], out[1], &peer, &error));
    else
        WORKS(vmm_peer_new(&peer_ops, in[0], -1, &model, &peer, &error));
    WORKS(vmm_console_new(peer, &console, &error));
    FAILS(vmm_console_add_port(console, "port", peer, &error), VMM_STATUS_WRONG_STATE, "another port");
    vmm_peer_free(peer);
    WORKS(vmm_console_resize(console, 80, 25, &error));
    WORKS(vmm_peer_stream(-1, out[1], &port, &error));
    FAILS(vmm_console_add_port(console, "port", port, &error), VMM_STATUS_BAD_CONFIG, "port");
    vmm_peer_free(port);
    vmm_config_add_console(config, console);
    machine = machine_of(config);
    ends_with(machine, 0);
    if (streams) {
        CHECK(read(out[0], model.said, sizeof model.said) == 6);
    } else {
        CHECK(model.size == 6 && model.drops == 0);
    }
    CHECK(memcmp(model.said, "hello\n", 6) == 0);
    vmm_machine_free(machine);
    vmm_console_free(console);
    CHECK(model.drops == !streams);
    close(in[0]), close(in[1]), close(out[0]), close(out[1]);
}

/* A device that counts its reads, and can be saved if `saves`. */
struct counter {
    uint8_t count;
    int resets;
};

static int32_t counter_read(void *user, uint32_t window, uint64_t offset, uint8_t *data, size_t size)
{
    (void)window, (void)offset;
    memset(data, 0, size);
    data[0] = ++((struct counter *)user)->count;
    return VMM_FLOW_CONTINUE;
}

static void counter_reset(void *user)
{
    struct counter *counter = user;
    counter->count = 0;
    counter->resets++;
}

static int32_t counter_save(void *user, vmm_result *state)
{
    vmm_result_bytes(state, &((struct counter *)user)->count, 1);
    return 0;
}

static int32_t counter_restore(void *user, const uint8_t *state, size_t size)
{
    if (size != 1 || state[0] == 99)
        return EINVAL;
    ((struct counter *)user)->count = state[0];
    return 0;
}

static vmm_machine *machine_with(struct counter *counter, const vmm_device_ops *ops, struct mirror *mirror, uint32_t vcpus)
{
    /* in al, 0x50; mov [0x20000], al; hlt; jmp back */
    static const uint8_t guest[] = {0xe4, 0x50, 0x88, 0x04, 0x25, 0x00, 0x00, 0x02, 0x00, 0xf4, 0xeb, 0xf4};
    vmm_config *config = vmm_config_new();
    vmm_device *device;
    vmm_virtio *virtio;
    vmm_config_set_backend(config, "soft");
    vmm_config_set_memory(config, 1 << 20);
    vmm_config_set_vcpus(config, vcpus);
    vmm_config_boot_long_mode(config, guest, sizeof guest);
    vmm_config_set_interrupts(config, mirror || vcpus > 1);
    WORKS(vmm_device_new("counter", ops, counter, &device, &error));
    WORKS(vmm_device_add_ports(device, 0x50, 1, &error));
    WORKS(vmm_device_add_ports(device, 0x60, 1, &error));
    vmm_config_add_device(config, device);
    vmm_device_free(device);
    if (mirror) {
        WORKS(vmm_virtio_new("mirror", 42, &mirror_ops, mirror, &virtio, &error));
        vmm_virtio_add_queue(virtio, 64);
        vmm_config_add_virtio(config, virtio);
        vmm_virtio_free(virtio);
    }
    return machine_of(config);
}

static void a_machine_that_is_saved_goes_on_elsewhere(void)
{
    static const vmm_device_ops ops = {
        .struct_size = sizeof ops,
        .read = counter_read,
        .reset = counter_reset,
        .save = counter_save,
        .restore = counter_restore,
    };
    /* One of a program that was compiled before devices could be saved. */
    vmm_device_ops old = {.struct_size = offsetof(vmm_device_ops, save), .read = counter_read};
    struct counter first = {0, 0}, second = {0, 0};
    struct mirror mirror, image;
    vmm_machine *machine = machine_with(&first, &ops, NULL, 1), *other;
    static uint8_t ram[1 << 20];
    vmm_saved *saved;
    vmm_outcome outcome;
    uint8_t count, bytes[4096];
    size_t size;

    for (count = 1; count <= 2; count++)
        WORKS(vmm_machine_run(machine, NULL, &error));
    WORKS(vmm_machine_save(machine, &saved, &error));
    WORKS(vmm_machine_read(machine, 0, ram, sizeof ram, &error));
    CHECK(first.count == 2 && ram[0x20000] == 2);
    vmm_machine_free(machine);

    other = machine_with(&second, &ops, NULL, 1);
    WORKS(vmm_machine_write(other, 0, ram, sizeof ram, &error));
    WORKS(vmm_machine_restore(other, vmm_saved_data(saved), vmm_saved_size(saved), &error));
    CHECK(second.count == 2 && second.resets == 1);
    WORKS(vmm_machine_run(other, &outcome, &error));
    WORKS(vmm_machine_read(other, 0x20000, &count, 1, &error));
    CHECK(outcome.ending == VMM_ENDING_HALTED && second.count == 3 && count == 3);

    /* What does not fit is named, and leaves nothing that could be used. */
    FAILS(vmm_machine_restore(other, "no", 2, &error), VMM_STATUS_SNAPSHOT, "records");
    WORKS(vmm_machine_run(other, NULL, &error));
    size = vmm_saved_size(saved);
    CHECK(size <= sizeof bytes);
    memcpy(bytes, vmm_saved_data(saved), size);
    FAILS(vmm_machine_restore(other, bytes, size - 1, &error), VMM_STATUS_SNAPSHOT, "");
    vmm_machine_free(other);
    other = machine_with(&second, &ops, NULL, 2);
    FAILS(vmm_machine_restore(other, bytes, size, &error), VMM_STATUS_INCOMPATIBLE, "vcpus: 2");
    FAILS(vmm_machine_run(other, NULL, &error), VMM_STATUS_WRONG_STATE, "");
    vmm_machine_free(other);
    first.count = 99;
    machine = machine_with(&first, &ops, NULL, 1);
    vmm_saved_free(saved);
    first.count = 99;
    WORKS(vmm_machine_save(machine, &saved, &error));
    FAILS(vmm_machine_restore(machine, vmm_saved_data(saved), vmm_saved_size(saved), &error), VMM_STATUS_INCOMPATIBLE,
          "counter");
    vmm_saved_free(saved);
    vmm_machine_free(machine);

    /* A device that cannot be saved, and one that does not want to. */
    machine = machine_with(&first, &old, NULL, 1);
    FAILS(vmm_machine_save(machine, &saved, &error), VMM_STATUS_UNSUPPORTED, "counter");
    CHECK(saved == NULL);
    vmm_machine_free(machine);
    memset(&mirror, 0, sizeof mirror);
    memset(&image, 0, sizeof image);
    mirror.written = 77;
    machine = machine_with(&first, &ops, &mirror, 1);
    mirror.fails = 5;
    FAILS(vmm_machine_save(machine, &saved, &error), VMM_STATUS_UNSUPPORTED, "mirror");
    mirror.fails = 0;
    WORKS(vmm_machine_save(machine, &saved, &error));
    other = machine_with(&second, &ops, &image, 1);
    WORKS(vmm_machine_restore(other, vmm_saved_data(saved), vmm_saved_size(saved), &error));
    CHECK(image.written == 77);
    vmm_machine_free(other);
    vmm_machine_free(machine);
    vmm_saved_free(saved);
}

static int heard, log_drops;

static void hear(void *user, vmm_log_level level, const char *target, const char *message)
{
    CHECK(user == &heard && level >= VMM_LOG_LEVEL_ERROR && level <= VMM_LOG_LEVEL_TRACE);
    CHECK(strncmp(target, "vmm_", 4) == 0 && *message);
    __atomic_add_fetch(&heard, 1, __ATOMIC_SEQ_CST);
}

static void hear_no_more(void *user)
{
    CHECK(user == &heard);
    log_drops++;
}

static void an_image_is_looked_at(void)
{
    vmm_inspection *inspection;
    WORKS(vmm_inspect(guest, &inspection, &error));
    CHECK(vmm_inspection_best(inspection) == VMM_BOOT_ELF64);
    CHECK(strstr(vmm_inspection_text(inspection), "not ") != NULL);
    vmm_inspection_free(inspection);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    guest = argv[1];
    WORKS(vmm_set_log(VMM_LOG_LEVEL_DEBUG, hear, &heard, hear_no_more, &error));
    a_disk_of_ones_own_serves_a_guest(0);
    CHECK(heard == 0);
    a_disk_of_ones_own_serves_a_guest(EIO);
    CHECK(heard > 0 && log_drops == 0);
    WORKS(vmm_set_log(VMM_LOG_LEVEL_WARN, NULL, NULL, NULL, &error));
    CHECK(log_drops == 1);
    disks_of_the_library_serve_a_guest(argv[2]);
    a_virtio_device_of_ones_own_serves_a_guest();
    a_virtio_device_that_fails_ends_the_run();
    a_machine_that_is_saved_goes_on_elsewhere();
    a_console_talks_to_a_guest(false);
    a_console_talks_to_a_guest(true);
    a_source_of_random_numbers_is_found();
    an_image_is_looked_at();
    printf("%d checks\n", checks);
    return 0;
}
