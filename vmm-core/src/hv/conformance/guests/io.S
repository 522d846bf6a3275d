// One access outside RAM each, by instructions that leave RAX, RCX and memory to look at.

#include "guest.h"
        .code64
        start
        single  0, inb     %dx, %al
        single  1, inl     %dx, %eax
        single  2, movw    (%rbx), %ax
        single  3, movq    (%rbx), %rax
        single  4, outb    %al, %dx
        single  5, outl    %eax, %dx
        single  6, movl    %eax, (%rbx)
        single  7, movq    %rax, (%rbx)
        single  8, xchgl   %eax, (%rbx)
