/* Holds two virtual machines as long as it lives, so that those of tests are neither the first nor the last.
 *
 * With the first and the last of them, KVM patches its own code (static keys). QEMU's software CPU may then go on with
 * translations of the old code on another processor, which in the middle of the patch is INT3: about one lab of ten with
 * two processors ended with both in the handler of that trap, for ever.
 *
 * Prints the number of the process that holds them, and ends when they are there. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void)
{
    int kvm = open("/dev/kvm", O_RDWR);
    int without_apic = ioctl(kvm, KVM_CREATE_VM, 0);
    int with_apic = ioctl(kvm, KVM_CREATE_VM, 0);
    /* The keys: any VM; a vCPU without an APIC; one whose APIC its guest has not enabled. */
    if (ioctl(without_apic, KVM_CREATE_VCPU, 0) < 0 || ioctl(with_apic, KVM_CREATE_IRQCHIP, 0) < 0 ||
        ioctl(with_apic, KVM_CREATE_VCPU, 0) < 0) {
        perror("hold: a virtual machine");
        return 1;
    }
    pid_t holder = fork();
    if (holder == 0) {
        close(STDOUT_FILENO);
        for (;;)
            pause();
    }
    printf("%d\n", (int)holder);
    return holder < 0;
}
