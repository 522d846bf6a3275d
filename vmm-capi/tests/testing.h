/*
 * What the library has only when it is built with the feature `testing`; vmm-capi/src/testing.rs.
 */
#ifndef VMM_TESTING_H
#define VMM_TESTING_H

#include <vmm.h>

/* The `count`th place from now on at which this thread could panic does so; 0 for none. */
void vmm_testing_panic_at(uint32_t count);
/* How many are left: 0 if there was a panic. */
uint32_t vmm_testing_panic_left(void);

typedef struct {
    uint32_t what; /* 0 for an IN, 1 for an OUT, 2 for a load, 3 for a store, 4 for HLT */
    uint32_t size;
    uint64_t at;
    uint64_t value;
} vmm_testing_access;

/* From now on there is a back end `script`, whose guests do this. */
vmm_status vmm_testing_script(const vmm_testing_access *accesses, size_t count, vmm_error **error);

/* Adds a device in Rust that does nothing at this port. */
void vmm_testing_config_add_idle(vmm_config *config, uint16_t port);
/* Calls `long name(long)` of a sandbox so many times, from Rust. */
vmm_status vmm_testing_calls(vmm_sandbox *sandbox, const char *name, uint32_t times, vmm_error **error);

#endif
