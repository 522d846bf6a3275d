// Counts NMIs until they are TARGET, with interrupts off throughout: HLT must wake all the same.
//
// STI cannot close the gap before HLT here, so the handler does: it returns behind HLT, whether that had begun or not.

#include "guest.h"
#include "irq_apic.h"

        start
        apic_on
next:   movl    COUNT, %eax
        cmpl    TARGET, %eax
        je      done
        incl    READY
        hlt
awake:  jmp     next
done:   power_off

counted:
        incl    COUNT
        movq    $awake, (%rsp)
        iretq

        idt_begin
        gate    2, counted
        idt_end
