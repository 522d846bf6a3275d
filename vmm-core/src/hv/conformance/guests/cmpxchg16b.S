// CMPXCHG16B on the 16 bytes at 0x10000, once finding what it compares with and once not; RDX:RAX
// of the second goes to 0x10010.

#include "guest.h"

        .set    MEMORY, 0x10000

        .code64
        start
        movq    $1, MEMORY
        movq    $2, MEMORY + 8
        movl    $1, %eax
        movl    $2, %edx
        movl    $3, %ebx
        movl    $4, %ecx
        lock cmpxchg16b MEMORY
        setz    %sil
        lock cmpxchg16b MEMORY          // now it finds 3 and 4
        setnz   %dil
        movq    %rax, MEMORY + 16
        movq    %rdx, MEMORY + 24
        expect  1, cmpb $1, %sil
        expect  2, cmpb $1, %dil
        power_off
