// Ways to come to a full stop.

#include "guest.h"
        .code64
        start
        single  0, ud2          // with an empty IDT: a triple fault
        single  1, jmp *%rbx
        single  2, movq (%rbx), %rax
