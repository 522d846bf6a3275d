/*
 * vmm_guest.h: what a program in a sandbox can ask of its host besides system calls.
 *
 * Include it in a program that vmm-sandbox runs; nothing is to be linked. C99 or newer, or C++.
 * Outside of a sandbox every function returns -ENOSYS, by which a program knows where it is.
 *
 * Licence: Apache-2.0 or BSD-3-Clause, at your choice.
 */
#ifndef VMM_GUEST_H
#define VMM_GUEST_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface. A host that does not know it refuses to load the program. */
#define VMM_GUEST_ABI 1

__asm__(".pushsection .note.vmm, \"a\", @note\n"
        ".balign 4\n"
        ".long 4, 4, 1\n"
        ".asciz \"vmm\"\n"
        ".long 1\n" /* VMM_GUEST_ABI */
        ".popsection\n");

/* What passes between a program and a function of its host. */
enum vmm_kind { VMM_NOTHING = 0, VMM_INTEGER = 1, VMM_FLOAT = 2, VMM_BYTES = 3 };

struct vmm_value {
    uint64_t kind;   /* an enum vmm_kind */
    uint64_t word;   /* the integer, the bits of the double, or the address of the bytes */
    uint64_t length; /* of the bytes */
};

static inline struct vmm_value vmm_integer(int64_t integer)
{
    struct vmm_value value = {VMM_INTEGER, (uint64_t)integer, 0};
    return value;
}

static inline struct vmm_value vmm_float(double number)
{
    struct vmm_value value = {VMM_FLOAT, 0, 0};
    memcpy(&value.word, &number, sizeof number);
    return value;
}

static inline struct vmm_value vmm_bytes(const void *bytes, size_t length)
{
    struct vmm_value value = {VMM_BYTES, (uint64_t)(uintptr_t)bytes, length};
    return value;
}

static inline struct vmm_value vmm_text(const char *text)
{
    return vmm_bytes(text, strlen(text));
}

/* The number in a value of kind VMM_FLOAT. */
static inline double vmm_as_float(struct vmm_value value)
{
    double number;
    memcpy(&number, &value.word, sizeof number);
    return number;
}

static inline long vmm_system_call(long number, long a, long b, long c, long d)
{
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

/*
 * Says that the program is ready: the host's start() ends, and the host may call the program's
 * functions from now on. In a sandbox it does not return; the stack below its caller is used for
 * the calls.
 */
static inline long vmm_ready(void)
{
    return vmm_system_call(0x766d6d01, 0, 0, 0, 0);
}

/*
 * Calls the function `name` of the host with `count` arguments, at most 16. `result` may be NULL.
 * For a result of bytes it comes with a buffer, as from vmm_bytes(buffer, size), and goes with
 * their whole length; if that is more than the size, the rest was cut off.
 *
 * Returns 0, -ENOENT if there is no such function, -EINVAL if it takes other arguments (text has to
 * be UTF-8 where the host takes text), -EFAULT for an address that is not the program's own, -E2BIG
 * for too many arguments, or more bytes in them than the program has memory.
 */
static inline long vmm_call(const char *name, const struct vmm_value *arguments, size_t count,
                            struct vmm_value *result)
{
    return vmm_system_call(0x766d6d02, (long)(uintptr_t)name, (long)(uintptr_t)arguments,
                           (long)count, (long)(uintptr_t)result);
}

/*
 * What tells this sandbox from all others: zeros at first, random in every fork of a snapshot and after
 * every reset. It changes between two calls of the host. A program that keeps random numbers, as
 * the seed of a generator, draws new ones when it has changed.
 */
__attribute__((weak)) volatile unsigned char vmm_identity[16];

#ifdef __cplusplus
}
#endif

#endif /* VMM_GUEST_H */
