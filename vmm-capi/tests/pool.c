/*
 * Pools of sandboxes, what they count, and what a child of fork() has of them: pool PROGRAM, which is
 * examples/guests/hostcall.c.
 */

#include <errno.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static int32_t points(void *user, const vmm_value *arguments, size_t count, vmm_result *result)
{
    (void)user;
    if (count != 1)
        return 1;
    vmm_result_int64(result, (int64_t)arguments[0].size);
    return 0;
}

static int64_t score(vmm_sandbox *sandbox, const char *words)
{
    vmm_value text = vmm_text(words), result = vmm_int64(0);
    WORKS(vmm_sandbox_call(sandbox, "score", &text, 1, &result, &error));
    return result.integer;
}

/* `saved` is where no file is. */
static void a_child_has_nothing(vmm_pool *pool, vmm_sandbox *sandbox, vmm_snapshot *snapshot, const char *saved)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        vmm_sandbox *other;
        vmm_snapshot *copy;
        vmm_pool_statistics statistics = {sizeof statistics, 0, 0, 0, 0, 0, 0};
        FAILS(vmm_pool_take(pool, VMM_FOREVER, &other, &error), VMM_STATUS_WRONG_PROCESS, "fork");
        FAILS(vmm_pool_get_statistics(pool, &statistics, &error), VMM_STATUS_WRONG_PROCESS, "fork");
        FAILS(vmm_sandbox_call(sandbox, "score", NULL, 0, NULL, &error), VMM_STATUS_WRONG_PROCESS, "fork");
        FAILS(vmm_sandbox_snapshot(sandbox, &copy, &error), VMM_STATUS_WRONG_PROCESS, "fork");
        FAILS(vmm_sandbox_reset(sandbox, snapshot, &error), VMM_STATUS_WRONG_PROCESS, "fork");
        FAILS(vmm_snapshot_fork(snapshot, &other, &error), VMM_STATUS_WRONG_PROCESS, "fork");
        FAILS(vmm_snapshot_save(snapshot, saved, &error), VMM_STATUS_WRONG_PROCESS, "fork");
        CHECK(access(saved, F_OK) != 0);
        vmm_sandbox_free(sandbox);
        vmm_pool_free(pool);
        vmm_snapshot_free(snapshot);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Forks take the VMs of sandboxes that are gone. */
static void vms_are_used_again(const char *program)
{
    vmm_vm_cache_statistics now = {.struct_size = sizeof now};
    vmm_sandbox_config *config = vmm_sandbox_config_program(program);
    vmm_vm_cache *cache;
    vmm_sandbox *app, *child;
    vmm_snapshot *warm;
    int n;

    WORKS(vmm_vm_cache_new(1, &cache, &error));
    vmm_sandbox_config_add_host_fn(config, "points", points, NULL, NULL);
    vmm_sandbox_config_set_vm_cache(config, cache);
    WORKS(vmm_sandbox_new(config, &app, &error));
    vmm_sandbox_config_free(config);
    WORKS(vmm_sandbox_start(app, NULL, &error));
    WORKS(vmm_sandbox_snapshot(app, &warm, &error));
    for (n = 0; n < 5; n++) {
        WORKS(vmm_snapshot_fork(warm, &child, &error));
        CHECK(score(child, "two words") == 8);
        vmm_sandbox_free(child);
    }
    WORKS(vmm_vm_cache_get_statistics(cache, &now, &error));
    CHECK(now.idle == 1 && now.reused == 4 && now.closed == 0);
    WORKS(vmm_snapshot_fork(warm, &child, &error));
    vmm_sandbox_free(app);
    vmm_sandbox_free(child);
    /* A thread of the cache's closes what is too much. */
    for (n = 0; n < 60000 && now.closed == 0; n++) {
        CHECK(poll(NULL, 0, 1) == 0);
        WORKS(vmm_vm_cache_get_statistics(cache, &now, &error));
    }
    CHECK(now.idle == 1 && now.reused == 5 && now.closed == 1);
    /* What has a cache outlives it. */
    WORKS(vmm_snapshot_fork(warm, &child, &error));
    vmm_vm_cache_free(cache);
    CHECK(score(child, "last") == 4);
    vmm_sandbox_free(child);
    vmm_snapshot_free(warm);

    config = vmm_sandbox_config_program(program);
    vmm_sandbox_config_set_vm_cache(config, NULL);
    FAILS(vmm_sandbox_new(config, &app, &error), VMM_STATUS_BAD_CONFIG, "cache is NULL");
    vmm_sandbox_config_free(config);
}

int main(int argc, char **argv)
{
    vmm_sandbox *app, *first, *second, *third;
    vmm_snapshot *warm;
    vmm_pool *pool;
    vmm_error *error;
    vmm_pool_statistics now = {sizeof now, 0, 0, 0, 0, 0, 0};
    vmm_sandbox_statistics used = {sizeof used, 0, 0};
    vmm_sandbox_config *config;
    char calls[256], saved[512];
    size_t size;

    CHECK(argc == 2);
    config = vmm_sandbox_config_program(argv[1]);
    vmm_sandbox_config_add_host_fn(config, "points", points, NULL, NULL);
    WORKS(vmm_sandbox_new(config, &app, &error));
    vmm_sandbox_config_free(config);
    WORKS(vmm_sandbox_start(app, NULL, &error));
    WORKS(vmm_sandbox_get_statistics(app, &used, &error));
    CHECK(used.memory > 4096 && used.system_calls > 0);
    size = vmm_sandbox_unknown_calls(app, calls, sizeof calls);
    CHECK(strlen(calls) == (size < sizeof calls ? size : sizeof calls - 1));
    CHECK(size == 0 || (strchr(calls, ' ') && strchr(calls, '\n')));
    CHECK(vmm_sandbox_unknown_calls(app, NULL, 0) == size);
    WORKS(vmm_sandbox_snapshot(app, &warm, &error));

    FAILS(vmm_pool_new(warm, 0, &pool, &error), VMM_STATUS_BAD_CONFIG, "0 sandboxes");
    WORKS(vmm_pool_new(warm, 2, &pool, &error));
    WORKS(vmm_pool_take(pool, VMM_FOREVER, &first, &error));
    WORKS(vmm_pool_take(pool, VMM_FOREVER, &second, &error));
    CHECK(score(first, "the quick") == 8 && score(second, "brown fox jumps") == 13);
    CHECK(vmm_pool_take(pool, 0, &third, &error) == VMM_STATUS_HOST && third == NULL);
    CHECK(vmm_error_os(error) == ETIMEDOUT);
    vmm_error_free(error);
    FAILS(vmm_pool_take(pool, 1000000, &third, &error), VMM_STATUS_HOST, "in use");
    CHECK(snprintf(saved, sizeof saved, "%s.saved", argv[1]) < (int)sizeof saved);
    a_child_has_nothing(pool, second, warm, saved);
    vmm_sandbox_free(first);
    WORKS(vmm_pool_take(pool, VMM_FOREVER, &third, &error));
    CHECK(score(third, "again") == 5);
    WORKS(vmm_pool_get_statistics(pool, &now, &error));
    CHECK(now.in_use == 2 && now.ready == 0 && now.forks == 2 && now.resets == 1 && now.replaced == 0);

    /* What is lent out outlives its pool, and the snapshot. */
    vmm_snapshot_free(warm);
    vmm_sandbox_free(third);
    vmm_pool_free(pool);
    CHECK(score(second, "last") == 4);
    vmm_sandbox_free(second);
    vmm_sandbox_free(app);
    vms_are_used_again(argv[1]);
    printf("%d checks\n", checks);
    return 0;
}
