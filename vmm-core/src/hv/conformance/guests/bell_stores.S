// Stores of each width, to the address in %rbx and the port in %dx: first one with the value of which
// each byte is 0x11, then one with another value. HLT at the end.

#include "guest.h"

        start
        movl    $0x11111111, %eax
        movabsq $0x1111111111111111, %rcx
        call    stores
        incl    %eax
        incq    %rcx
        call    stores
        hlt

stores:
        movb    %al, (%rbx)
        movw    %ax, (%rbx)
        movl    %eax, (%rbx)
        movq    %rcx, (%rbx)
        outb    %al, %dx
        outw    %ax, %dx
        outl    %eax, %dx
        ret
