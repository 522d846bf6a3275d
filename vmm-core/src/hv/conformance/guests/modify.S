// Instructions that read (%rbx) and write it back changed.

#include "guest.h"
        .code64
        start
        single  0, xchgb   %al, (%rbx)
        single  1, xchgw   %ax, (%rbx)
        single  2, xchgl   %eax, (%rbx)
        single  3, xchgq   %rax, (%rbx)
        single  4, cmpxchgl %ecx, (%rbx)
        single  5, lock cmpxchgl %ecx, (%rbx)
        single  6, lock cmpxchgq %rcx, (%rbx)
        single  7, addb    %cl, (%rbx)
        single  8, addq    %rcx, (%rbx)
        single  9, lock addl %ecx, (%rbx)
        single  10, orw    %cx, (%rbx)
        single  11, lock orl %ecx, (%rbx)
        single  12, incl   (%rbx)
        single  13, lock incq (%rbx)
        single  14, xaddl  %eax, (%rbx)
        single  15, lock xaddq %rax, (%rbx)
        single  16, notl   (%rbx)
        single  17, subl   %ecx, (%rbx)
