// Counts interrupts of channel 0 of the timer 8254, 500 a second through pin 0 of the PIC, until they are TARGET.

#include "guest.h"
#include "irq_apic.h"

        .set    PIT, 0x40
        .set    DIVISOR, 1193182 / 500

        start
        apic_on
        movl    $0xfffe, %esi
        pic_on
        movb    $0x34, %al              // channel 0, low byte and high byte, mode 2
        outb    %al, $PIT + 3
        movb    $DIVISOR & 0xff, %al
        outb    %al, $PIT
        movb    $DIVISOR >> 8, %al
        outb    %al, $PIT
        wait_until_target
        power_off

counted:
        pushq   %rax
        movb    $PIC_EOI, %al
        outb    %al, $PIC1
        incl    COUNT
        popq    %rax
        iretq

        idt_begin
        gate    PIC_BASE, counted
        idt_end
