// Stores to ports that a timer 8254 would have.

#include "guest.h"
        start

        movb    $0x34, %al
        outb    %al, $0x43
        movb    $1, %al
        outb    %al, $0x40
        movb    $2, %al
        outb    %al, $0x40
        movb    $3, %al
        outb    %al, $0x61
        power_off
