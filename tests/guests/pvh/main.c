/* A unikernel entered by PVH. Structures: Xen, public/arch-x86/hvm/start_info.h; their addresses
 * are 64 bits wide and below 4 GiB. */
#include "../guest.h"

enum { START_MAGIC = 0x336ec578, RAM = 1 };

struct start_info {
    uint32_t magic, version, flags, modules;
    uint64_t modlist, cmdline, rsdp, memmap;
    uint32_t ranges, reserved;
};

struct module {
    uint64_t paddr, size, cmdline, reserved;
};

struct range {
    uint64_t addr, size;
    uint32_t type, reserved;
};

static const void *at(uint64_t address)
{
    return (const void *)(uint32_t)address;
}

int main(uint32_t eax, const struct start_info *info)
{
    (void)eax;
    send("guest: entered with magic ");
    send_hex(info->magic);
    if (info->magic != START_MAGIC || info->version < 1) {
        send(", not by PVH with a memory map\n");
        return 255;
    }
    send(", by PVH, ACPI tables at ");
    send_hex(info->rsdp);
    send("\n");

    uint64_t ram = 0;
    const struct range *ranges = at(info->memmap);
    for (uint32_t n = 0; n < info->ranges; n++)
        if (ranges[n].type == RAM)
            ram += ranges[n].size;
    send_memory(info->ranges, ram);
    const struct module *modules = at(info->modlist);
    for (uint32_t n = 0; n < info->modules; n++) {
        const char *name = modules[n].cmdline ? at(modules[n].cmdline) : "";
        send_module(name, at(modules[n].paddr), modules[n].size);
    }
    return work(at(info->cmdline));
}
