// Counts interrupts of the PICs' pins 5 and 10 until they are TARGET.

#include "guest.h"
#include "irq_apic.h"

        start
        apic_on
        movl    $0xfbdb, %esi           // not masked: 2 (the cascade), 5 and 10
        pic_on
        wait_until_target
        power_off

counted_second:
        pushq   %rax
        movb    $PIC_EOI, %al
        outb    %al, $PIC2
        jmp     1f
counted_first:
        pushq   %rax
        movb    $PIC_EOI, %al
1:      outb    %al, $PIC1
        incl    COUNT
        popq    %rax
        iretq

        idt_begin
        gate    PIC_BASE + 5, counted_first
        gate    PIC_BASE + 10, counted_second
        idt_end
