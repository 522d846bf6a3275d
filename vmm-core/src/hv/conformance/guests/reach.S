// Reads and writes every port, a byte each; then every address in the table at RSI, RCX of them,
// with what it has read stored in the table at RDI. Ends with a store to 0xd0000000.

#include "guest.h"

        .set    END, 0xd0000000

        .code64
        start
        xorl    %edx, %edx
1:      inb     %dx, %al
        movb    %dl, %al
        xorb    $0x5a, %al
        outb    %al, %dx
        incw    %dx
        jnz     1b

        jrcxz   3f
2:      lodsq
        movl    (%rax), %ebx
        movl    %ecx, (%rax)
        movl    %ebx, (%rdi)
        addq    $4, %rdi
        decq    %rcx
        jnz     2b

3:      movl    $END, %eax
        movb    $1, (%rax)
        hlt
