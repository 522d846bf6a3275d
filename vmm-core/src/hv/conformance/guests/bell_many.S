// Stores %ecx times to the address in %rbx and the port in %dx. HLT at the end.

#include "guest.h"

        start
1:      movw    %cx, (%rbx)
        outb    %al, %dx
        decl    %ecx
        jnz     1b
        hlt
