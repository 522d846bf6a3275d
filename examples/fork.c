/*
 * A program that is started once and forked: each child goes on from the same moment.
 *
 *   cc -static examples/guests/hostcall.c -Ivmm-sandbox/guest/include -o guest
 *   cc -std=c99 examples/fork.c $(pkg-config --cflags --libs vmm) -o fork && ./fork guest
 */

#include <inttypes.h>
#include <stdio.h>
#include <vmm.h>

/* What the program can call: points(word) is the word's length. */
static int32_t points(void *user, const vmm_value *arguments, size_t count, vmm_result *result)
{
    (void)user;
    if (count != 1 || arguments[0].kind != VMM_KIND_BYTES)
        return 1;
    vmm_result_int64(result, (int64_t)arguments[0].size);
    return 0;
}

/* Says what `text` scores. */
static vmm_status score(vmm_sandbox *sandbox, const char *who, const char *text, vmm_error **error)
{
    vmm_value argument = vmm_text(text), result = vmm_int64(0);
    vmm_status status = vmm_sandbox_call(sandbox, "score", &argument, 1, &result, error);
    if (status == VMM_STATUS_OK)
        printf("%s: %" PRId64 "\n", who, result.integer);
    return status;
}

static vmm_status children(vmm_snapshot *warm, vmm_error **error)
{
    static const char *const texts[] = {"a", "bb", "c cc"};
    static const char *const names[] = {"child 0", "child 1", "child 2"};
    vmm_sandbox *child;
    vmm_status status = VMM_STATUS_OK;
    size_t i;

    for (i = 0; i < 3 && status == VMM_STATUS_OK; i++) {
        status = vmm_snapshot_fork(warm, &child, error);
        if (status == VMM_STATUS_OK)
            status = score(child, names[i], texts[i], error);
        vmm_sandbox_free(child);
    }
    return status;
}

int main(int argc, char **argv)
{
    vmm_error *error;
    vmm_sandbox *sandbox;
    vmm_snapshot *warm = NULL;
    vmm_status status;

    vmm_sandbox_config *config = vmm_sandbox_config_program(argc > 1 ? argv[1] : "./guest");
    vmm_sandbox_config_add_host_fn(config, "points", points, NULL, NULL);
    status = vmm_sandbox_new(config, &sandbox, &error);
    vmm_sandbox_config_free(config);
    if (status == VMM_STATUS_OK)
        status = vmm_sandbox_start(sandbox, NULL, &error);
    if (status == VMM_STATUS_OK)
        status = vmm_sandbox_snapshot(sandbox, &warm, &error);
    if (status == VMM_STATUS_OK)
        status = children(warm, &error);
    if (status == VMM_STATUS_OK)
        status = vmm_sandbox_reset(sandbox, warm, &error);
    if (status == VMM_STATUS_OK)
        status = score(sandbox, "after a reset", "the quick brown fox", &error);
    vmm_snapshot_free(warm);
    vmm_sandbox_free(sandbox);
    if (status == VMM_STATUS_OK)
        return 0;
    fprintf(stderr, "fork: %s\n", vmm_error_message(error));
    vmm_error_free(error);
    return 1;
}
