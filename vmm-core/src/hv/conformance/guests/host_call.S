// Calls the host with a count in RAX, takes the next one from RBX; the host ends it with 0. What RCX
// was given comes back in RDX.

#include "guest.h"

        .set    CALL_PORT, 0x5c

        .code64
        start
        jmp     main
        .org    8
        .quad   resume                  // where the host looks for it
main:
        movl    $1, %eax
again:
        outl    %eax, $CALL_PORT
resume:
        movq    %rcx, %rdx
        movq    %rbx, %rax
        outb    %al, $0x80              // another port is an access like any
        testq   %rax, %rax
        jnz     again

        power_off
