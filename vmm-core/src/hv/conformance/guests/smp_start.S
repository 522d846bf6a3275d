// vCPU 0 starts vCPUs 1 to TARGET and waits until they have counted themselves in. Each of them leaves
// its APIC ID in two places: as CPUID tells it, and as its local APIC does.

#include "guest.h"
#include "irq_apic.h"
#include "smp_boot.h"

        .set    TICKET, FIRST           // the number of the next to come
        .set    IDS, 0x8100             // two words for each

        start
        apic_on
        xorl    %edi, %edi
next:   incl    %edi
        start_up
        cmpl    TARGET, %edi
        jne     next
wait:   movl    COUNT, %eax
        cmpl    TARGET, %eax
        jne     wait
        power_off

        started
        movl    $1, %esi
        lock xaddl %esi, TICKET
        movl    $1, %eax
        cpuid
        shrl    $24, %ebx
        movl    %ebx, IDS(,%rsi,8)
        movl    $LAPIC, %ebp
        movl    LAPIC_ID(%rbp), %eax
        shrl    $24, %eax
        movl    %eax, IDS + 4(,%rsi,8)
        movl    $1, %eax
        lock xaddl %eax, COUNT
stay:   hlt
        jmp     stay

        idt_begin
        idt_end
