// Counts at 0x10000 for ever.

#include "guest.h"
        .code64
        start
1:      incq    0x10000
        jmp     1b
