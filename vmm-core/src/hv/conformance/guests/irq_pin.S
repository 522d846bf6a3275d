// Takes the interrupts of the I/O APIC's pin FIRST, whose entry is SECOND, and tells the host of each
// step, at which it may do something to the pin: port 0x80 has the step, port 0x81 how many
// interrupts were taken.
//
// 1: set up, interrupts on. 2: about to unmask the pin; then the guest waits until TARGET
// interrupts were taken. 3: the end.

#include "guest.h"
#include "irq_apic.h"

        .set    MASKED, 1 << 16

        start
        apic_on
        movl    FIRST, %edi
        movl    SECOND, %esi
        ioapic_direct
        sti
        movb    $1, %al
        outb    %al, $0x80
        idle
        movb    $2, %al
        outb    %al, $0x80
        andl    $~MASKED, %esi
        ioapic_direct
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
        movl    $0, LAPIC_EOI(%rbp)
        popq    %rax
        iretq

        idt_begin
        gate    0x40, counted
        idt_end
