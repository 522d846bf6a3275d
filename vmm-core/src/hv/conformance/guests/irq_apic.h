// What the guests that take interrupts in 64-bit mode share: words the host reads and writes, gates, the two kinds of
// interrupt controller. The local APIC is at (%rbp) throughout, in handlers too.

        // Words of 32 bits, shared with the host (outside.rs).
        .set    COUNT, 0x8000           // interrupts taken and acknowledged
        .set    TARGET, 0x8004          // how many the guest waits for
        .set    READY, 0x8008           // 1: set up, about to wait
        .set    FIRST, 0x800c           // what a guest is told besides
        .set    SECOND, 0x8010

        .set    LAPIC, 0xfee00000
        .set    LAPIC_ID, 0x20
        .set    LAPIC_EOI, 0xb0
        .set    LAPIC_SVR, 0xf0
        .set    LAPIC_ICR, 0x300
        .set    LAPIC_ICR_HIGH, 0x310
        .set    LAPIC_LVT_TIMER, 0x320
        .set    LAPIC_LVT_LINT0, 0x350
        .set    LAPIC_TIMER_INITIAL, 0x380
        .set    LAPIC_TIMER_CURRENT, 0x390
        .set    LAPIC_TIMER_DIVIDE, 0x3e0

        .set    IOAPIC, 0xfec00000
        .set    IOAPIC_WINDOW, 0x10
        .set    IOAPIC_REDIRECTIONS, 0x10

        .set    PIC1, 0x20
        .set    PIC2, 0xa0
        .set    PIC_EOI, 0x20
        .set    PIC_BASE, 0x20          // the vector of pin 0

// The interrupt descriptor table and its pointer; gates go in between, in ascending order of vectors. The last one is 0x6f.
.macro idt_begin
        .balign 16
idt:
.endm
.macro gate vector, handler
        .org    idt + (\vector) * 16
        .word   \handler, 0x08          // below 64 KiB, in the code segment of ring 0
        .word   0x8e00, 0
        .quad   0
.endm
.macro idt_end
        .org    idt + 0x70 * 16
idt_pointer:
        .word   0x70 * 16 - 1
        .quad   idt
.endm

// Loads the table and switches the local APIC on; spurious interrupts would come as vector 0x6f.
.macro apic_on
        lidt    idt_pointer
        movl    $LAPIC, %ebp
        movl    $0x16f, LAPIC_SVR(%rbp)
.endm

// Pin %edi of the I/O APIC is directed to APIC 0 with the lower half of its entry in %esi.
.macro ioapic_direct
        movl    $IOAPIC, %ebx
        leal    IOAPIC_REDIRECTIONS + 1(,%rdi,2), %eax
        movl    %eax, (%rbx)
        movl    $0, IOAPIC_WINDOW(%rbx)
        decl    %eax
        movl    %eax, (%rbx)
        movl    %esi, IOAPIC_WINDOW(%rbx)
.endm

// Both PICs, edge-triggered, from vector PIC_BASE on, all pins masked but those with a 0 in %esi; their interrupts come
// through LINT0.
.macro pic_on
        movl    $0x700, LAPIC_LVT_LINT0(%rbp)   // ExtINT
        movb    $0x11, %al              // ICW1: edge, cascade, ICW4 follows
        outb    %al, $PIC1
        outb    %al, $PIC2
        movb    $PIC_BASE, %al          // ICW2
        outb    %al, $PIC1 + 1
        movb    $PIC_BASE + 8, %al
        outb    %al, $PIC2 + 1
        movb    $1 << 2, %al            // ICW3: the second is at pin 2 of the first
        outb    %al, $PIC1 + 1
        movb    $2, %al
        outb    %al, $PIC2 + 1
        movb    $1, %al                 // ICW4: 8086 mode
        outb    %al, $PIC1 + 1
        outb    %al, $PIC2 + 1
        movl    %esi, %eax
        outb    %al, $PIC1 + 1
        movb    %ah, %al
        outb    %al, $PIC2 + 1
.endm

// Waits in HLT until COUNT is TARGET or more. STI holds interrupts off until HLT has begun, so none slips in before it.
.macro wait_until_target
        movl    $1, READY
1:      cli
        movl    COUNT, %eax
        cmpl    TARGET, %eax
        jae     2f
        sti
        hlt
        jmp     1b
2:
.endm

// Some time for an interrupt that must not come.
.macro idle
        movl    $100, %ecx
1:      nop
        decl    %ecx
        jnz     1b
.endm
