// For ever: spins, ports, MMIO and string I/O mixed. Each round has a number, and what was read is
// written elsewhere, so that the host sees if anything is lost or done twice.

#include "guest.h"

        .set    MMIO, 0xd0000000
        .set    BUFFER, 0x10000
        .set    LENGTH, 5

        .code64
        start
        movl    $MMIO, %ebx
        xorl    %r12d, %r12d
round:
        incl    %r12d
        movl    %r12d, %eax
        outl    %eax, $0x90             // the number, by port

        movl    %r12d, %ecx             // a spin of 1 to 32 turns
        andl    $31, %ecx
        incl    %ecx
1:      decl    %ecx
        jnz     1b

        movl    %r12d, (%rbx)           // the number, by MMIO
        movl    8(%rbx), %eax           // a load, and what it gave
        movl    %eax, 16(%rbx)
        inl     $0x98, %eax             // an IN, and what it gave
        outl    %eax, $0x9c
        movl    %r12d, %eax             // an exchange, and what it gave
        xchgl   %eax, 24(%rbx)
        movl    %eax, 32(%rbx)

        movl    $BUFFER, %edi           // string input, and what it gave, as string output
        movl    $LENGTH, %ecx
        movw    $0xa0, %dx
        rep insb
        movl    $BUFFER, %esi
        movl    $LENGTH, %ecx
        movw    $0xa4, %dx
        rep outsb
        jmp     round
