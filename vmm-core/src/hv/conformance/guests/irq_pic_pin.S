// Like irq_pin.S for pin 5 of the first PIC, which is masked at first.

#include "guest.h"
#include "irq_apic.h"

        start
        apic_on
        movl    $0xffff, %esi
        pic_on
        sti
        movb    $1, %al
        outb    %al, $0x80
        idle
        movb    $2, %al
        outb    %al, $0x80
        movb    $0xdf, %al
        outb    %al, $PIC1 + 1
        wait_until_target
        sti
        idle
        movb    $3, %al
        outb    %al, $0x80
        power_off

counted:
        pushq   %rax
        incl    COUNT
        movl    COUNT, %eax
        outb    %al, $0x81
        movb    $PIC_EOI, %al
        outb    %al, $PIC1
        popq    %rax
        iretq

        idt_begin
        gate    PIC_BASE + 5, counted
        idt_end
