// The way between a program and its host. Everything here is public: ring 0 of a sandbox gains a
// program nothing, every check is made by the host.
//
// One page of code, mapped read-only for both rings, linked to run at its fixed address. It starts
// with a table of addresses for the host (src/cpu/stub.rs). Only integer registers are used, and no
// stack but the one the processor switches to: a program's red zone stays as it is.

// The same as in src/cpu/stub.rs.
        .set    CALL_PORT, 0x60
        .set    EXCEPTION_PORT, 0x40

        .text
        .globl  table
table:
        .quad   enter
        .quad   syscall_ring0
        .quad   syscall_ring0_done
        .quad   syscall_ring3
        .quad   syscall_ring3_trap
        .quad   syscall_ring3_done
        .quad   breakpoint
        .quad   breakpoint_done
        .quad   edit
        .quad   exceptions
        .quad   call_with_floats
        .quad   call
        .quad   call_returned

// Ring 0: to the program at RCX with the flags in R11; the other registers are its own, RSP too.
enter:
        sysretq

// LSTAR where SYSCALL enters ring 0: RCX and R11 have the program's RIP and RFLAGS, the other
// registers are its own, RSP too. (HLT would be the shorter way through KVM, but where the processor
// does not tell it the length of instructions it has to decode that one first.)
syscall_ring0:
        outb    %al, $CALL_PORT
syscall_ring0_done:
        sysretq

// LSTAR where SYSCALL jumps here but stays in ring 3 (user-mode KVM). INT3 is the cheapest way from
// there into ring 0. FMASK is 0, so the flags never changed, and there is nothing to restore but RIP.
syscall_ring3:
        int3
// Only a processor that was put here by its state comes here in ring 3: that KVM does not say that
// the trap was on its way.
syscall_ring3_trap:
        jmp     syscall_ring3
// Where the host has IRETQ go.
syscall_ring3_done:
        jmp     *%rcx

// The handler of that INT3, in ring 0.
breakpoint:
        outb    %al, $CALL_PORT
breakpoint_done:
        iretq

// Ring 0: the host changes page tables. Entries that are absent it writes itself; one that is
// present must be changed by the guest, because a hypervisor with shadow page tables sees no other
// change. RDI is where (by the self-map), RSI the new entries, RCX how many.
edit:
        rep movsq
        movq    %cr3, %rax
        movq    %rax, %cr3
        outb    %al, $CALL_PORT
        hlt

// Ring 3: where the host calls a function, RBX. Its arguments are in registers and at RSP, but for
// the fourth, which is in R10 as at a system call, and floating-point ones: R12 points to eight of
// them. The host knows the SYSCALL by its RCX.
call_with_floats:
        movsd   0(%r12), %xmm0
        movsd   8(%r12), %xmm1
        movsd   16(%r12), %xmm2
        movsd   24(%r12), %xmm3
        movsd   32(%r12), %xmm4
        movsd   40(%r12), %xmm5
        movsd   48(%r12), %xmm6
        movsd   56(%r12), %xmm7
call:
        movq    %r10, %rcx
        call    *%rbx
        movq    %xmm0, %rdi
        syscall
call_returned:
        ud2

// The handlers of exceptions, 16 bytes each: the port says which. What the processor pushed is on
// the stack, the registers are the program's.
        .balign 16
exceptions:
        .set    vector, 0
        .rept   32
        .balign 16
        outb    %al, $(EXCEPTION_PORT + vector)
        hlt
        .set    vector, vector + 1
        .endr
