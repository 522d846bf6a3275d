// What can be done with memory at (%rbx).

#include "guest.h"
        .code64
        start
        single  0, movq    (%rbx), %rax
        single  1, movq    %rax, (%rbx)
        single  2, addq    %rax, (%rbx)
        single  3, call    *%rbx
