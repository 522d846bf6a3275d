// OUT and IN of each width, to an immediate port and to DX. Each IN puts all of RAX, ones before,
// into the table at 0x10000.

#include "guest.h"

        .set    TABLE, 0x10000

.macro input instruction:vararg
        movq    $-1, %rax
        \instruction
        stosq
.endm

        .code64
        start
        movl    $TABLE, %edi

        movl    $0x44332211, %eax
        outb    %al, $0x90
        outw    %ax, $0x92
        outl    %eax, $0x94
        movw    $0x1235, %dx
        outb    %al, %dx
        movw    $0x2346, %dx
        outw    %ax, %dx
        movw    $0xfffc, %dx            // the last four
        outl    %eax, %dx

        input   inb     $0x90, %al
        input   inw     $0x92, %ax
        input   inl     $0x94, %eax
        movw    $0x1235, %dx
        input   inb     %dx, %al
        movw    $0x2346, %dx
        input   inw     %dx, %ax
        movw    $0xfffc, %dx
        input   inl     %dx, %eax

        power_off
