// Stores to (%rbx), from RAX and immediate.

#include "guest.h"
        .code64
        start
        single  0, movb    %al, (%rbx)
        single  1, movw    %ax, (%rbx)
        single  2, movl    %eax, (%rbx)
        single  3, movq    %rax, (%rbx)
        single  4, movb    $0x5a, (%rbx)
        single  5, movw    $0x5aa5, (%rbx)
        single  6, movl    $0x89abcdef, (%rbx)
        single  7, movq    $-2, (%rbx)
