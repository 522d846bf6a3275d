// What every guest program starts with. Programs are assembled for 64-bit, switch size with .code16
// and .code32, are linked flat to run at 0x1000 (guest.ld), and have everything in .text.

        .text

        .set    EXIT_PORT, 0xf4

// The first instruction: must come first.
.macro start
        .globl  start_of_program
start_of_program:
.endm

// Ends `run` with code 0.
.macro power_off
        xorl    %eax, %eax
        outb    %al, $EXIT_PORT
        hlt
.endm

// Ends `run` with CODE, which is not 0, unless the comparison finds equality.
.macro expect code, comparison:vararg
        \comparison
        je      .Lequal\@
        movb    $\code, %al
        outb    %al, $EXIT_PORT
        hlt
.Lequal\@:
.endm

// A program of single instructions: number NUMBER starts at 0x1000 + 16 * NUMBER and is followed by
// HLT. The host puts a vCPU there with the registers it wants.
.macro single number, instruction:vararg
        .org    \number * 16, 0xf4
        \instruction
        hlt
.endm
