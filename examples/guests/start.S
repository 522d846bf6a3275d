/* The first instruction of a guest: long mode, ring 0, the stack right below the image. */
        .section .start, "ax"
        .globl _start
_start: call    main
        outl    %eax, $0xf4             /* The debug-exit port: what main returns is the code. */
1:      hlt                             /* Not reached. */
        jmp     1b
        .section .note.GNU-stack, "", @progbits
