/* A unikernel entered by Multiboot 1. Structures: Multiboot specification 0.6.96, 3.3. */
#include "../guest.h"

enum { ENTRY_MAGIC = 0x2badb002, HAS_MEMORY_MAP = 1 << 6, RAM = 1 };

struct info {
    uint32_t flags, mem_lower, mem_upper, boot_device;
    const char *cmdline;
    uint32_t mods_count;
    const struct module *mods;
    uint32_t syms[4], mmap_length, mmap_addr, drives[2], config_table;
    const char *boot_loader_name;
};

struct module {
    const uint8_t *start, *end;
    const char *string;
    uint32_t reserved;
};

struct range {
    uint32_t size; /* of what follows */
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));

int main(uint32_t magic, const struct info *info)
{
    send("guest: entered with EAX ");
    send_hex(magic);
    if (magic != ENTRY_MAGIC || !(info->flags & HAS_MEMORY_MAP)) {
        send(", not by Multiboot 1 with a memory map\n");
        return 255;
    }
    send(", by Multiboot 1 from ");
    send(info->boot_loader_name);
    send("\n");

    uint32_t ranges = 0;
    uint64_t ram = 0;
    for (uint32_t at = info->mmap_addr; at < info->mmap_addr + info->mmap_length; ranges++) {
        const struct range *range = (const struct range *)at;
        if (range->type == RAM)
            ram += range->length;
        at += sizeof range->size + range->size;
    }
    send_memory(ranges, ram);
    for (uint32_t n = 0; n < info->mods_count; n++) {
        const struct module *module = info->mods + n;
        send_module(module->string, module->start, module->end - module->start);
    }
    return work(info->cmdline);
}
