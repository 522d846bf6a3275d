// Loads from (%rbx) into RAX.

#include "guest.h"
        .code64
        start
        single  0, movb    (%rbx), %al
        single  1, movw    (%rbx), %ax
        single  2, movl    (%rbx), %eax
        single  3, movq    (%rbx), %rax
        single  4, movzbl  (%rbx), %eax
        single  5, movzwl  (%rbx), %eax
        single  6, movzbq  (%rbx), %rax
        single  7, movzwq  (%rbx), %rax
        single  8, movsbw  (%rbx), %ax
        single  9, movsbl  (%rbx), %eax
        single  10, movswl (%rbx), %eax
        single  11, movsbq (%rbx), %rax
        single  12, movswq (%rbx), %rax
        single  13, movslq (%rbx), %rax
