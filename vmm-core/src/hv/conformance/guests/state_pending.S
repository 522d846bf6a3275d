// With interrupts off, tells of a step on port 0x80: the host interrupts with vector 0x40 and takes
// the guest elsewhere. Then lets the interrupt in.

#include "guest.h"
#include "irq_apic.h"

        start
        apic_on
        movb    $1, %al
        outb    %al, $0x80
        expect  1, cmpl $0, COUNT
        movl    $1, TARGET
        wait_until_target
        power_off

counted:
        movl    $0, LAPIC_EOI(%rbp)
        incl    COUNT
        iretq

        idt_begin
        gate    0x40, counted
        idt_end
