/* The first instruction of a 32-bit guest. What the protocol passes in EAX and EBX becomes the
   arguments of main(); what main() returns is the exit code. */
        .text
        .globl  entry
entry:  movl    $stack_end, %esp
        pushl   %ebx
        pushl   %eax
        call    main
        outl    %eax, $0xf4             /* The debug-exit port. */
1:      hlt                             /* Not reached. */
        jmp     1b

        .bss
        .balign 16
        .skip   0x4000
stack_end:
        .section .note.GNU-stack, "", @progbits
