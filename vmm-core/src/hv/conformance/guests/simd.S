// SSE integers and SSE, SSE2 and x87 floating point; the results go to 0x10000.

#include "guest.h"

        .set    RESULTS, 0x10000

        .code64
        start
        movdqa  one_to_four, %xmm0
        paddd   %xmm0, %xmm0
        movdqa  %xmm0, RESULTS
        movaps  halves, %xmm1
        mulps   %xmm1, %xmm1
        movaps  %xmm1, RESULTS + 16
        movl    $2, %eax
        cvtsi2sd %eax, %xmm2
        sqrtsd  %xmm2, %xmm2
        movsd   %xmm2, RESULTS + 32
        fninit
        fldpi
        fldpi
        faddp
        fstpl   RESULTS + 40
        power_off

        .balign 16
one_to_four:
        .long   1, 2, 3, 4
halves:
        .float  0.5, 1.5, 2.5, 3.5
