// How a guest in 64-bit mode goes to ring 3 and is still interrupted there.

        .set    TASK, 0x90800
        .set    STACK, 0x7000
        .set    USER_CODE, 0x23
        .set    USER_DATA, 0x1b

// Goes on in ring 3, without a stack, interrupts on if FLAGS has bit 9. Interrupts use STACK.
.macro to_ring_3 flags
        movq    $STACK, TASK + 4
        pushq   $USER_DATA
        pushq   $0
        pushq   $\flags
        pushq   $USER_CODE
        pushq   $.Lring_3\@
        iretq
.Lring_3\@:
.endm
