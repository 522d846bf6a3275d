// In the handler of vector 0x40, before it acknowledges the interrupt, three further ones come: a more
// urgent one, the same again, a less urgent one. Tells of steps on port 0x80 and of the vector of each
// interrupt on port 0x81.

#include "guest.h"
#include "irq_apic.h"

        start
        apic_on
        movl    $4, TARGET
        sti
        movb    $1, %al                 // the host sends vector 0x40
        outb    %al, $0x80
        wait_until_target
        power_off

same:
        pushq   %rax
        pushq   %rcx
        movb    $0x40, %al
        outb    %al, $0x81
        cmpl    $0, FIRST
        jne     again
        incl    FIRST
        sti
        movb    $2, %al                 // the host sends the others
        outb    %al, $0x80
        idle
        movb    $3, %al
        outb    %al, $0x80
        cli
again:  popq    %rcx
        jmp     acknowledge
urgent:
        pushq   %rax
        movb    $0x50, %al
        outb    %al, $0x81
        jmp     acknowledge
relaxed:
        pushq   %rax
        movb    $0x30, %al
        outb    %al, $0x81
acknowledge:
        movl    $0, LAPIC_EOI(%rbp)
        incl    COUNT
        popq    %rax
        iretq

        idt_begin
        gate    0x30, relaxed
        gate    0x40, same
        gate    0x50, urgent
        idt_end
