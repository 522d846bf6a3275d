// Halts three times and says so before each; then powers off.

#include "guest.h"
        .code16
        start

        movb    $1, %al
next:
        outb    %al, $0x80
        hlt
        incb    %al
        cmpb    $4, %al
        jne     next

        power_off
