// 32-bit paging with 4 KiB and 4 MiB pages, then PAE paging with 4 KiB and 2 MiB pages; says on
// port 0x84 what it reads through them.

#include "guest.h"

        .set    RESULT_PORT, 0x84

        .set    CODE32, 0x08
        .set    DATA, 0x10

        .set    DIRECTORY, 0x10000
        .set    TABLE, 0x11000
        .set    PAE_POINTERS, 0x12000
        .set    PAE_DIRECTORY, 0x13000
        .set    PAE_TABLE, 0x14000
        .set    FRAME, 0x20000          // what is looked at through each mapping

.macro paging_on tables
        movl    $\tables, %eax
        movl    %eax, %cr3
        movl    %cr0, %eax
        orl     $0x80000000, %eax       // PG
        movl    %eax, %cr0
        jmp     1f
1:
.endm

.macro paging_off
        movl    %cr0, %eax
        andl    $0x7fffffff, %eax
        movl    %eax, %cr0
        jmp     1f
1:
.endm

.macro say address
        movl    \address, %eax
        outl    %eax, $RESULT_PORT
.endm

        .code16
        start
        lgdtl   gdt_pointer
        movl    %cr0, %eax
        orl     $1, %eax                // PE
        movl    %eax, %cr0
        ljmpl   $CODE32, $protected

        .code32
protected:
        movw    $DATA, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $0xcafe0001, FRAME

        // The first 256 KiB one to one in pages of 4 KiB, FRAME also at 0x300000; all from 0 at 4
        // MiB in one page.
        movl    $3, %eax
        movl    $TABLE, %edi
        movl    $64, %ecx
1:      stosl
        addl    $0x1000, %eax
        loop    1b
        movl    $FRAME + 3, TABLE + 0x300 * 4
        movl    $TABLE + 3, DIRECTORY
        movl    $0x83, DIRECTORY + 4
        movl    %cr4, %eax
        orl     $0x10, %eax             // PSE
        movl    %eax, %cr4
        paging_on DIRECTORY
        say     0x300000
        movl    $0xcafe0002, 0x300004
        say     FRAME + 4
        say     0x400004 + FRAME
        paging_off

        // The first 2 MiB one to one in one page, FRAME at 2 MiB in a page of 4 KiB.
        movl    $PAE_DIRECTORY + 1, PAE_POINTERS
        movl    $0x83, PAE_DIRECTORY
        movl    $PAE_TABLE + 3, PAE_DIRECTORY + 8
        movl    $FRAME + 3, PAE_TABLE
        movl    %cr4, %eax
        orl     $0x20, %eax             // PAE
        movl    %eax, %cr4
        paging_on PAE_POINTERS
        say     0x200000
        movl    $0xcafe0003, 0x200008
        say     FRAME + 8
        paging_off
        say     FRAME + 8
        power_off

        .balign 8
gdt:
        .quad   0
        .quad   0x00cf9b000000ffff      // CODE32
        .quad   0x00cf93000000ffff      // DATA
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt
