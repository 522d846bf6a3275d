/*
 * Snapshots in files: saved PROGRAM DIRECTORY; the program is guests/adder.c, files go to the directory.
 */

#include <errno.h>

#include "check.h"

static char lent[512], alone[512], changed[512], nowhere[512];

static int32_t twice(void *user, const vmm_value *arguments, size_t count, vmm_result *result)
{
    ++*(int *)user;
    if (count != 1 || arguments[0].kind != VMM_KIND_INT64)
        return 1;
    vmm_result_int64(result, 2 * arguments[0].integer);
    return 0;
}

static int64_t call(vmm_sandbox *sandbox, const char *name, int64_t n)
{
    vmm_value argument = vmm_int64(n), result = vmm_int64(0);
    WORKS(vmm_sandbox_call(sandbox, name, &argument, 1, &result, &error));
    return result.integer;
}

static vmm_sandbox *made(vmm_sandbox_config *config)
{
    vmm_sandbox *sandbox;
    WORKS(vmm_sandbox_new(config, &sandbox, &error));
    vmm_sandbox_config_free(config);
    return sandbox;
}

/* Starts the program, adds 30, and saves it: with a function of the host that counts its calls, or without one. */
static void save(const char *program, const char *path, int *calls)
{
    vmm_sandbox *app;
    vmm_snapshot *warm;
    vmm_sandbox_config *config = vmm_sandbox_config_program(program);
    if (calls)
        vmm_sandbox_config_add_host_fn(config, "twice", twice, calls, NULL);
    app = made(config);
    WORKS(vmm_sandbox_start(app, NULL, &error));
    CHECK(call(app, "add", 30) == 30);
    WORKS(vmm_sandbox_snapshot(app, &warm, &error));
    CHECK(call(app, "add", 1) == 31);
    WORKS(vmm_snapshot_save(warm, path, &error));
    /* What is there is replaced, what cannot be written is not. */
    WORKS(vmm_snapshot_save(warm, path, &error));
    FAILS(vmm_snapshot_save(warm, nowhere, &error), VMM_STATUS_HOST, nowhere);
    vmm_snapshot_free(warm);
    vmm_sandbox_free(app);
}

static void what_was_saved_is_opened_where_it_was_made(void)
{
    vmm_snapshot *opened;
    vmm_sandbox *first, *second;
    WORKS(vmm_snapshot_open(alone, &opened, &error));
    WORKS(vmm_snapshot_fork(opened, &first, &error));
    WORKS(vmm_snapshot_fork(opened, &second, &error));
    CHECK(call(first, "add", 1) == 31 && call(first, "add", 1) == 32 && call(second, "add", 5) == 35);
    CHECK(call(second, "add_by_host", 4) == -1);
    WORKS(vmm_sandbox_reset(first, opened, &error));
    vmm_snapshot_free(opened);
    CHECK(call(first, "add", 2) == 32);
    vmm_sandbox_free(first);
    vmm_sandbox_free(second);
}

static size_t obstacles_in_the_way(vmm_sandbox_config *config)
{
    vmm_obstacles *obstacles;
    size_t size;
    WORKS(vmm_sandbox_config_check(config, &obstacles, &error));
    size = vmm_obstacles_size(obstacles);
    vmm_obstacles_free(obstacles);
    return size;
}

static void functions_are_given_again_or_missed_by_name(void)
{
    int calls = 0;
    vmm_sandbox *sandbox;
    vmm_snapshot *opened;
    vmm_sandbox_state state;
    vmm_obstacles *obstacles;
    const vmm_obstacle *missing;
    vmm_sandbox_config *config = vmm_sandbox_config_saved(lent);

    FAILS(vmm_snapshot_open(lent, &opened, &error), VMM_STATUS_INCOMPATIBLE, "\"twice\"");
    CHECK(opened == NULL);
    WORKS(vmm_sandbox_config_check(config, &obstacles, &error));
    CHECK(vmm_obstacles_size(obstacles) == 1);
    missing = vmm_obstacles_at(obstacles, 0);
    CHECK(missing->kind == VMM_OBSTACLE_KIND_FUNCTION && strcmp(missing->name, "twice") == 0);
    CHECK(strcmp(missing->text, "no host function \"twice\" was given") == 0);
    CHECK(vmm_obstacles_at(obstacles, 1) == NULL);
    vmm_obstacles_free(obstacles);
    FAILS(vmm_sandbox_new(config, &sandbox, &error), VMM_STATUS_INCOMPATIBLE, "\"twice\"");
    FAILS(vmm_sandbox_config_check(config, &obstacles, &error), VMM_STATUS_WRONG_STATE, "before");
    CHECK(obstacles == NULL);
    vmm_sandbox_config_free(config);

    /* What was looked at can be changed and used. */
    config = vmm_sandbox_config_saved(lent);
    CHECK(obstacles_in_the_way(config) == 1);
    vmm_sandbox_config_add_host_fn(config, "twice", twice, &calls, NULL);
    CHECK(obstacles_in_the_way(config) == 0);
    sandbox = made(config);
    WORKS(vmm_sandbox_get_state(sandbox, &state, &error));
    CHECK(state == VMM_SANDBOX_STATE_READY && calls == 0);
    CHECK(call(sandbox, "add_by_host", 6) == 42 && calls == 1);
    vmm_sandbox_free(sandbox);
}

/* On the CPU in software there may be less than the host has. */
static void baseline_programs_need_no_feature(void)
{
    vmm_obstacles *obstacles;
    size_t n;
    vmm_sandbox_config *config = vmm_sandbox_config_saved(alone);
    vmm_sandbox_config_set_backend(config, "soft");
    printf("%zu obstacles on the CPU in software, ", obstacles_in_the_way(config));
    vmm_sandbox_config_set_baseline_only(config);
    WORKS(vmm_sandbox_config_check(config, &obstacles, &error));
    for (n = 0; n < vmm_obstacles_size(obstacles); n++)
        CHECK(vmm_obstacles_at(obstacles, n)->kind != VMM_OBSTACLE_KIND_FEATURE);
    vmm_obstacles_free(obstacles);
    vmm_sandbox_config_free(config);
}

/* Copies a file; the byte `flip`, if it is in it, becomes another. */
static void copy(const char *from, const char *to, uint64_t flip)
{
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    uint64_t at;
    int byte;
    CHECK(in && out);
    for (at = 0; (byte = getc(in)) != EOF; at++)
        putc(at == flip ? byte ^ 1 : byte, out);
    CHECK(fclose(in) == 0 && fclose(out) == 0);
}

/* The `n`th of the file's sections by its table: at byte 64, of 40 bytes each, a name and where it begins. */
static uint64_t section(const char *path, size_t n, char name[17])
{
    FILE *file = fopen(path, "rb");
    uint64_t begin;
    CHECK(file && fseek(file, 64 + 40 * (long)n, SEEK_SET) == 0);
    CHECK(fread(name, 16, 1, file) == 1 && fread(&begin, 8, 1, file) == 1);
    fclose(file);
    name[16] = 0;
    return begin;
}

static void what_was_changed_is_refused_by_its_section(void)
{
    static const char *const names[] = {"origin", "records", "memory", "pages"};
    char name[17], says[32];
    vmm_sandbox *sandbox;
    vmm_snapshot *opened;
    vmm_obstacles *obstacles;
    vmm_sandbox_config *config;
    size_t n;

    for (n = 0; n < 4; n++) {
        copy(alone, changed, section(alone, n, name) + 3);
        CHECK(strcmp(name, names[n]) == 0);
        snprintf(says, sizeof says, "section '%s'", name);
        config = vmm_sandbox_config_saved(changed);
        /* The memory is not looked at before it is needed. */
        if (strcmp(name, "memory") == 0)
            CHECK(obstacles_in_the_way(config) == 0);
        else
            FAILS(vmm_sandbox_config_check(config, &obstacles, &error), VMM_STATUS_SNAPSHOT, says);
        FAILS(vmm_sandbox_new(config, &sandbox, &error), VMM_STATUS_SNAPSHOT, says);
        CHECK(sandbox == NULL);
        vmm_sandbox_config_free(config);
        FAILS(vmm_snapshot_open(changed, &opened, &error), VMM_STATUS_SNAPSHOT, changed);
    }
    /* It was the byte. */
    copy(alone, changed, UINT64_MAX);
    WORKS(vmm_snapshot_open(changed, &opened, &error));
    vmm_snapshot_free(opened);
}

static void what_is_missing_is_named(void)
{
    vmm_snapshot *opened;
    vmm_sandbox *sandbox;
    vmm_obstacles *obstacles;
    vmm_error *error;
    vmm_sandbox_config *config = vmm_sandbox_config_saved(nowhere);
    CHECK(vmm_snapshot_open(nowhere, &opened, &error) == VMM_STATUS_HOST && opened == NULL);
    CHECK(vmm_error_os(error) == ENOENT && strstr(vmm_error_message(error), nowhere));
    vmm_error_free(error);
    FAILS(vmm_sandbox_new(config, &sandbox, &error), VMM_STATUS_HOST, nowhere);
    vmm_sandbox_config_free(config);

    /* What a setting fails with is told by both. */
    config = vmm_sandbox_config_saved(alone);
    vmm_sandbox_config_set_stdio(config, 1 << 20, -1, -1);
    CHECK(vmm_sandbox_config_check(config, &obstacles, &error) == VMM_STATUS_HOST);
    CHECK(vmm_error_os(error) == EBADF && obstacles == NULL);
    vmm_error_free(error);
    CHECK(vmm_sandbox_new(config, &sandbox, &error) == VMM_STATUS_HOST);
    CHECK(vmm_error_os(error) == EBADF && strstr(vmm_error_message(error), "input") && sandbox == NULL);
    vmm_error_free(error);
    vmm_sandbox_config_free(config);
}

int main(int argc, char **argv)
{
    int calls = 0;
    CHECK(argc == 3);
    snprintf(lent, sizeof lent, "%s/lent", argv[2]);
    snprintf(alone, sizeof alone, "%s/alone", argv[2]);
    snprintf(changed, sizeof changed, "%s/changed", argv[2]);
    snprintf(nowhere, sizeof nowhere, "%s/no/such", argv[2]);
    save(argv[1], lent, &calls);
    save(argv[1], alone, NULL);
    what_was_saved_is_opened_where_it_was_made();
    functions_are_given_again_or_missed_by_name();
    baseline_programs_need_no_feature();
    what_was_changed_is_refused_by_its_section();
    what_is_missing_is_named();
    printf("%d checks\n", checks);
    return 0;
}
