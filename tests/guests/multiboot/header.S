/* Multiboot specification 0.6.96, 3.1: aligned modules and a memory map, please. */
        .set    MAGIC, 0x1badb002
#ifdef ADDRESS_FIELDS
        .set    FLAGS, 0x10003
#else
        .set    FLAGS, 0x00003
#endif
        .section .head, "a"
        .balign 4
header: .long   MAGIC, FLAGS, -(MAGIC + FLAGS)
#ifdef ADDRESS_FIELDS                   /* For an image without ELF headers. */
        .long   header, image_start, loaded_end, image_end, entry
#endif
        .section .note.GNU-stack, "", @progbits
