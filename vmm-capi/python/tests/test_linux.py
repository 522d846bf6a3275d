"""A Linux guest whose root is a disk in Python, with a console in Python, on the software CPU."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import vmm

from .test_devices import Store

#: Process 1 of the RAM disk: finds the disk, and goes over to it.
BEFORE = """#!/bin/sh
mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_mmio virtio_blk virtio_console; do
    insmod /modules/$module.ko
done
mount -t ext2 /dev/vda /mnt
exec switch_root /mnt /init
"""

#: Process 1 of the disk.
INIT = """#!/bin/sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox cat /greeting
# What the driver of the console finds comes by and by.
until echo "guest: hello on hvc0" 2>/dev/null >/dev/hvc0; do /bin/busybox sleep 0.1; done
until set -- /dev/vport*p1 && [ -c $1 ]; do /bin/busybox sleep 0.1; done
exec 3<>$1
echo question >&3
read answer <&3
exec 3>&-
echo "guest: the answer is $answer"
/bin/busybox seq 20000 | /bin/busybox sha256sum >/answer
/bin/busybox grep ' / ' /proc/mounts
/bin/busybox umount -a -r
/bin/busybox poweroff -f
"""


class Agent:
    """The other end of a named port: answers one question."""

    def __init__(self):
        self.readable, self.writer = os.pipe()
        os.set_blocking(self.readable, False)
        self.asked, self.states = b"", []

    def send(self, data):
        self.asked += data
        if self.asked.endswith(b"\n"):
            os.write(self.writer, b"forty-two\n")

    def receive(self, size):
        # Raises BlockingIOError if there is nothing.
        return os.read(self.readable, size)

    def opened(self, is_open):
        self.states.append(is_open)


def archive(name, data, mode):
    """One file as cpio has it ("newc"), which a kernel unpacks behind what is there."""

    def entry(name, data, mode):
        name = name.encode() + b"\0"
        numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % number for number in numbers)
        return pad(header + name) + pad(data)

    def pad(data):
        return data + bytes(-len(data) % 4)

    return entry(name, data, mode) + entry("TRAILER!!!", b"", 0)


def root(directory):
    """The bytes of a file system with busybox and INIT."""
    tree = directory / "tree"
    for name in ("bin", "dev", "proc"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    (tree / "greeting").write_text("guest: greetings from a disk in Python\n")
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    image = directory / "image"
    subprocess.run(["mke2fs", "-q", "-t", "ext2", "-d", tree, image, "8M"], check=True)
    return image.read_bytes()


def test_a_disk_in_python_is_the_root_of_linux(tmp_path):
    guests = os.environ.get("VMM_GUESTS")
    if not guests or not Path("/bin/busybox").exists() or not shutil.which("mke2fs"):
        why = "no kernel (VMM_GUESTS), no static busybox or no mke2fs"
        print(f"skipped: test_a_disk_in_python_is_the_root_of_linux: {why}")
        pytest.skip(why)
    store = Store(8 << 20)
    store.write(0, root(tmp_path))
    initrd = tmp_path / "initrd"
    there = (Path(guests) / "initrd").read_bytes()
    initrd.write_bytes(there + bytes(-len(there) % 4) + archive("init", BEFORE.encode(), 0o100755))
    disk = vmm.Disk.of(store, len(store.bytes)).configure(serial="python")
    said, agent = [], Agent()
    terminal = vmm.Console(said.append, ports={"agent": agent})
    with open(tmp_path / "console", "w+b") as console:
        with vmm.Machine(
            memory=256 << 20,
            boot=vmm.Linux(Path(guests) / "vmlinuz", initrd, "console=ttyS0 quiet panic=-1"),
            backend="soft",
            serial=(None, console.fileno()),
            rtc=True,
            i8042=True,
            disks=[disk],
            consoles=[terminal],
        ) as machine:
            machine.start()
            end = time.monotonic() + 900
            while (outcome := machine.poll()) is None:
                assert time.monotonic() < end, Path(console.name).read_text()
                time.sleep(0.05)
        text = Path(console.name).read_text()
    assert (outcome.ending, outcome.code) == (vmm.Ending.POWER_OFF, 0), text
    assert "guest: greetings from a disk in Python" in text
    assert "guest: the answer is forty-two" in text
    assert "/dev/root / ext2 rw" in text or "/dev/vda / ext2 rw" in text, text
    assert b"".join(said) == b"guest: hello on hvc0\r\n"
    assert agent.asked == b"question\n" and agent.states == [True, False]
    os.close(agent.readable)
    os.close(agent.writer)
    # What the guest has written is in the store, as its own file system says.
    image = tmp_path / "after"
    image.write_bytes(store.bytes)
    cat = subprocess.run(["debugfs", "-R", "cat /answer", image], capture_output=True, check=True)
    numbers = "".join(f"{n}\n" for n in range(1, 20001)).encode()
    digest = subprocess.run(["sha256sum"], input=numbers, capture_output=True, check=True).stdout
    assert cat.stdout == digest
    now = disk.statistics()
    assert now.reads > 10 and now.writes > 0 and now.errors == 0
