/*
 * A C program in a sandbox, whose function the host calls and which calls the host.
 *
 *   cc -static examples/guests/hostcall.c -Ivmm-sandbox/guest/include -o guest
 *   cc -std=c99 examples/hostcall.c $(pkg-config --cflags --libs vmm) -o hostcall && ./hostcall guest
 */

#include <inttypes.h>
#include <stdio.h>
#include <vmm.h>

/* What the program can call: points(word) is the word's length. */
static int32_t points(void *user, const vmm_value *arguments, size_t count, vmm_result *result)
{
    int *calls = user;
    if (count != 1 || arguments[0].kind != VMM_KIND_BYTES)
        return 1;
    *calls += 1;
    vmm_result_int64(result, (int64_t)arguments[0].size);
    return 0;
}

static int fail(vmm_error *error)
{
    fprintf(stderr, "hostcall: %s\n", vmm_error_message(error));
    vmm_error_free(error);
    return 1;
}

int main(int argc, char **argv)
{
    vmm_error *error;
    vmm_sandbox *sandbox;
    vmm_status status;
    int calls = 0;

    vmm_sandbox_config *config = vmm_sandbox_config_program(argc > 1 ? argv[1] : "./guest");
    vmm_sandbox_config_add_host_fn(config, "points", points, &calls, NULL);
    vmm_sandbox_config_set_timeout(config, UINT64_C(10000000000));
    status = vmm_sandbox_new(config, &sandbox, &error);
    vmm_sandbox_config_free(config);
    if (status != VMM_STATUS_OK)
        return fail(error);

    status = vmm_sandbox_start(sandbox, NULL, &error);
    if (status == VMM_STATUS_OK) {
        vmm_value text = vmm_text("the quick brown fox");
        vmm_value score = vmm_int64(0);
        status = vmm_sandbox_call(sandbox, "score", &text, 1, &score, &error);
        if (status == VMM_STATUS_OK)
            printf("score: %" PRId64 " (%d calls of the host)\n", score.integer, calls);
    }
    vmm_sandbox_free(sandbox);
    return status == VMM_STATUS_OK ? 0 : fail(error);
}
