// How one vCPU starts the others, and how these get from real mode to 64-bit mode. The host has put
// page tables and a descriptor table into memory (guest.rs).

        .set    GDT, 0x90000
        .set    GDT_LIMIT, 7 * 8 - 1
        .set    PAGE_TABLES, 0x91000

        .set    STARTUP_PAGE, 2         // the page `started` is in

        .set    ICR_INIT, 0x4500
        .set    ICR_STARTUP, 0x4600

// Sends INIT and twice the start-up message to the APIC whose ID is in %edi.
.macro start_up
        shll    $24, %edi
        movl    %edi, LAPIC_ICR_HIGH(%rbp)
        movl    $ICR_INIT, LAPIC_ICR(%rbp)
        movl    %edi, LAPIC_ICR_HIGH(%rbp)
        movl    $ICR_STARTUP + STARTUP_PAGE, LAPIC_ICR(%rbp)
        movl    %edi, LAPIC_ICR_HIGH(%rbp)
        movl    $ICR_STARTUP + STARTUP_PAGE, LAPIC_ICR(%rbp)
        shrl    $24, %edi
.endm

// Where the others begin: real mode, CS:IP = 0x200:0. What follows the macro is 64-bit code.
.macro started
        .org    STARTUP_PAGE * 0x1000 - 0x1000
        .code16
        xorw    %ax, %ax
        movw    %ax, %ds
        lgdtl   gdt_pointer
        movl    $0x620, %eax            // PAE, OSFXSR, OSXMMEXCPT
        movl    %eax, %cr4
        movl    $PAGE_TABLES, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       // EFER
        movl    $0x100, %eax            // LME
        xorl    %edx, %edx
        wrmsr
        movl    $0x80010033, %eax       // PG, WP, NE, ET, MP, PE
        movl    %eax, %cr0
        ljmpl   $0x08, $started_long
gdt_pointer:
        .word   GDT_LIMIT
        .long   GDT
        .code64
started_long:
        movl    $0x10, %eax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
.endm
