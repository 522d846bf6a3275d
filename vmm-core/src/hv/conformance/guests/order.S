// What vCPUs do at once, a pair of programs for each test of memory's order (order.rs): rounds 1
// to %edi, counted in %ecx. A program ends with code 1 when it has seen what must not be.

#include "guest.h"

// The next entry: the host starts a vCPU at 0x1000 + 0x80 * NUMBER.
.macro entry number
        .org    \number * 0x80, 0xcc
        xorl    %ecx, %ecx
.endm

// Goes on with the next round at BACK, or ends.
.macro again back
        cmpl    %edi, %ecx
        jne     \back
        power_off
.endm

.macro fail
        movb    $1, %al
        outb    %al, $EXIT_PORT
        hlt
.endm

// In step: says at (%rsi) which round this is, and waits until the other says so at (%rdx).
.macro meet
        movl    %ecx, (%rsi)
        await
.endm

// Waits until the other is in this round.
.macro await
.Lwait\@:
        pause
        cmpl    %ecx, (%rdx)
        jb      .Lwait\@
.endm

// Both begin at once.
.macro together
        movl    $1, %ecx
        meet
        xorl    %ecx, %ecx
.endm

// Stores the round to (%r8), then loads what the other has stored, which the host looks at.
.macro store_load fence:vararg
1:      incl    %ecx
        meet
        movl    %ecx, (%r8)
        \fence
        movl    (%r9), %eax
        movl    %eax, (%rbx,%rcx,4)
        again   1b
.endm

        start

        entry   0                       // nothing between store and load
        store_load
        entry   1
        store_load mfence
        entry   2                       // a locked access of something else
        store_load lock incl (%r10)
        entry   3                       // one that takes the place of the store, and of the fence
1:      incl    %ecx
        meet
        movl    %ecx, %eax
        xchgl   %eax, (%r8)
        movl    (%r9), %eax
        movl    %eax, (%rbx,%rcx,4)
        again   1b

        entry   4                       // loads what the other stores, then stores what it loads
1:      incl    %ecx
        meet
        movl    (%r9), %eax
        movl    %ecx, (%r8)
        movl    %eax, (%rbx,%rcx,4)
        again   1b

        entry   5                       // a message at (%r8), and word of it at (%r9)
1:      incl    %ecx
        movl    %ecx, (%r8)
        movl    %ecx, (%r9)
        testl   $63, %ecx
        jnz     2f
        await                           // not too far ahead
2:      again   1b

        entry   6                       // who has word of it has the message
1:      pause
        movl    (%r9), %ecx
        movl    (%r8), %eax
        movl    %ecx, (%rsi)
        cmpl    %ecx, %eax
        jb      3f
        again   1b
3:      fail

        entry   7                       // both count at (%r8)
        together
        xorl    %ebx, %ebx
1:      incl    %ecx
        movl    $1, %eax
        lock xaddl %eax, (%r8)
        cmpl    %ebx, %eax              // it never goes back
        jb      3f
        leal    1(%rax), %ebx
        again   1b
3:      fail

        entry   8                       // stores to the last byte that the other counts in
        together
        xorl    %ebx, %ebx
1:      incl    %ecx
        cmpb    %bl, 3(%r8)
        jne     3f
        incl    %ebx
        movb    %bl, 3(%r8)
        again   1b
3:      fail

        entry   9                       // both count in both halves at (%r8)
        together
        movl    %ecx, %r10d
1:      incl    %r10d
        movq    (%r8), %rax
        movq    8(%r8), %rdx
2:      leaq    1(%rax), %rbx
        leaq    1(%rdx), %rcx
        lock cmpxchg16b (%r8)
        jnz     2b
        movl    %r10d, %ecx
        again   1b

        .set    PROGRAM, 3              // where in its page it is, so that its operand is aligned

        entry   10                      // writes mov eax, ROUND; ret
1:      incl    %ecx
        incl    %ebx                    // the next page, of %r10d + 1
        andl    %r10d, %ebx
        movl    %ebx, %eax
        shll    $12, %eax
        addl    %r8d, %eax
        movb    $0xb8, PROGRAM(%rax)
        movl    %ecx, PROGRAM + 1(%rax)
        movb    $0xc3, PROGRAM + 5(%rax)
        meet
        again   1b

        entry   11                      // calls it
        movl    %ebx, %ebp
1:      incl    %ecx
        incl    %ebp
        andl    %r10d, %ebp
        await
        movl    %ecx, %r11d
        xorl    %eax, %eax
        movq    %rdx, %r12
        cpuid                           // serializes
        movq    %r12, %rdx
        movl    %ebp, %eax
        shll    $12, %eax
        leal    PROGRAM(%rax,%r8), %eax
        call    *%rax
        movl    %r11d, %ecx
        cmpl    %ecx, %eax
        jne     3f
        movl    %ecx, (%rsi)
        again   1b
3:      fail

        .set    MARKS, 0x60             // accessed, dirty
        .set    OURS, 1 << 9            // free for software

        entry   12                      // takes the marks from the entry at (%r8)
        movq    (%r8), %rbx
        andl    $OURS, %ebx
1:      incl    %ecx
        lock andq $~MARKS, (%r8)
        movl    %ecx, (%rsi)
2:      movq    (%r8), %rax             // while it is marked, changes what is not the processor's
        andl    $OURS, %eax
        cmpl    %ebx, %eax
        jne     3f
        lock xorq $OURS, (%r8)
        xorl    $OURS, %ebx
        pause
        cmpl    %ecx, (%rdx)
        jb      2b
        movq    (%r8), %rax
        andl    $MARKS, %eax
        cmpl    $MARKS, %eax
        jne     3f
        again   1b
3:      fail

        entry   13                      // writes to its page, at (%r9)
1:      incl    %ecx
        await
        invlpg  (%r9)
        movl    %ecx, (%r9)
        movl    %ecx, (%rsi)
        again   1b

        entry   14                      // counts at (%r8), whatever the last byte becomes
        together
1:      incl    %ecx
        lock incl (%r8)
        again   1b

        entry   15                      // looks at (%r8), then at (%r9), and keeps what has changed
        movq    $-1, %r10
        movq    %r10, %r11
1:      movq    (%r8), %rax
        movq    (%r9), %rdx
        cmpq    %rax, %r10
        jne     2f
        cmpq    %rdx, %r11
        jne     2f
        pause
        jmp     1b
2:      movq    %rax, %r10
        movq    %rdx, %r11
        movq    %rax, (%rbx)
        movq    %rdx, 8(%rbx)
        addq    $16, %rbx
        incl    %ecx
        movl    %ecx, (%rsi)
        again   1b

        entry   16                      // stores 1, 2, ... to (%r8) until two have looked often enough
1:      incq    %rcx
        movq    %rcx, (%r8)
        pause
        cmpl    %edi, (%r9)
        jb      1b
        cmpl    %edi, (%r10)
        jb      1b
        power_off
