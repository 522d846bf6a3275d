/* XEN_ELFNOTE_PHYS32_ENTRY: where the guest is entered (Xen, docs/misc/pvh.pandoc). */
        .section .note.Xen, "a", @note
        .balign 4
        .long   4, 4, 18
        .asciz  "Xen"
        .long   entry
        .section .note.GNU-stack, "", @progbits
