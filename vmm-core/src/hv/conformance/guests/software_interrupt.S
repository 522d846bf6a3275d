// INT3 and INT 0x80 in ring 0: each handler says its vector on port 0x80 and where it was called
// from on port 0x84.

#include "guest.h"

        .set    VECTOR_PORT, 0x80
        .set    CALLER_PORT, 0x84
        .set    CODE64, 0x08
        .set    IDT, 0x14000

.macro gate vector, handler
        movl    $(CODE64 << 16), %eax
        orl     $\handler, %eax
        movl    %eax, IDT + \vector * 16
        movl    $0x8e00, IDT + \vector * 16 + 4
.endm

.macro handler name, vector
\name:
        movb    $\vector, %al
        outb    %al, $VECTOR_PORT
        movl    (%rsp), %eax
        outl    %eax, $CALLER_PORT
        iretq
.endm

        .code64
        start
        jmp     main
        .org    8
        .long   after_int3, after_int   // where the host looks for them
main:
        gate    3, breakpoint
        gate    0x80, call
        lidt    idt_pointer
        int3
after_int3:
        int     $0x80
after_int:
        power_off

        handler breakpoint, 3
        handler call, 0x80

idt_pointer:
        .word   0x81 * 16 - 1
        .quad   IDT
