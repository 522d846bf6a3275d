/*
 * What the tests in C say they expect.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vmm.h>

static int checks;

#define CHECK(what)                                                                                \
    do {                                                                                           \
        checks++;                                                                                  \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* The call fails with this status, and its message has this in it. */
#define FAILS(call, expected, says)                                                                \
    do {                                                                                           \
        vmm_error *error = (vmm_error *)&checks;                                                   \
        vmm_status status = (call);                                                                \
        CHECK(status == (expected));                                                               \
        CHECK(error != NULL && vmm_error_status(error) == status);                                 \
        if (!strstr(vmm_error_message(error), says))                                               \
            fprintf(stderr, "'%s'\n", vmm_error_message(error));                                   \
        CHECK(strstr(vmm_error_message(error), says) != NULL);                                     \
        vmm_error_free(error);                                                                     \
    } while (0)

#define WORKS(call)                                                                                \
    do {                                                                                           \
        vmm_error *error = (vmm_error *)&checks;                                                   \
        vmm_status status = (call);                                                                \
        if (status != VMM_STATUS_OK)                                                               \
            fprintf(stderr, "'%s'\n", vmm_error_message(error));                                   \
        CHECK(status == VMM_STATUS_OK && error == NULL);                                           \
    } while (0)

#endif
