"""Disks and virtio devices in Python, driven by a guest; what the library says; what is left over."""

import gc
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cffi import FFI

import vmm
import vmm.library
from vmm.library import Kept

from .test_machine import ECHO, HALT, Echo, machine

GUESTS = Path(os.environ["VMM_TEST_GUESTS"])  # Where driver.c is.
#: Also what takes minutes.
LONG = os.environ.get("VMM_LONG") == "1"


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """A guest without a kernel that drives one virtio device."""
    guest = tmp_path_factory.mktemp("driver") / "driver"
    flags = "-O1 -ffreestanding -fno-pic -fno-stack-protector -mgeneral-regs-only -mno-red-zone"
    link = "-nostdlib -static -no-pie -Wl,--build-id=none -Wl,-N -Wl,-e,entry -Wl,-Ttext=0x100000"
    command = ["cc", *flags.split(), *link.split(), str(GUESTS / "driver.c"), "-o", str(guest)]
    subprocess.run(command, check=True)
    return guest


def drive(driver, what, **settings):
    with vmm.Machine(
        memory=4 << 20, boot=vmm.Elf64(driver, what), backend="soft", debug_exit=True, **settings
    ) as m:
        return m.run().code


class Store:
    """A disk in memory."""

    def __init__(self, size):
        self.bytes = bytearray(size)
        self.flushes = 0

    def read(self, at, size):
        return self.bytes[at : at + size]

    def write(self, at, data):
        self.bytes[at : at + len(data)] = data

    def flush(self):
        self.flushes += 1

    def resize(self, size):
        if size > 1 << 20:
            raise OSError(28, "no room")
        self.bytes = self.bytes[:size].ljust(size, b"\0")


def test_a_disk_in_python_serves_a_guest(driver):
    store = Store(16 * 512)
    disk = vmm.Disk.of(store, len(store.bytes)).configure(serial="store", queues=2, limit=1 << 20)
    assert drive(driver, "disk", disks=[disk]) == 0
    assert store.bytes[3 * 512 + 1] == 7 and store.flushes == 1
    now = disk.statistics()
    assert (now.reads, now.writes, now.flushes, now.errors) == (1, 1, 1, 1)
    disk.resize(1 << 20)
    assert disk.size == len(store.bytes) == 1 << 20
    with pytest.raises(vmm.HostError) as error:
        disk.resize(2 << 20)
    assert error.value.errno == 28


def test_what_a_disk_raises_is_the_guests_error_and_is_logged(driver, caplog):
    class Broken(Store):
        def read(self, at, size):
            return b"too short"

        def write(self, at, data):
            raise KeyError("no such place")

        def flush(self):
            raise OSError(5, "no flush")

    assert drive(driver, "broken", disks=[vmm.Disk.of(Broken(8192), 8192)]) == 0
    assert {record.exc_info[0] for record in caplog.records} == {ValueError, KeyError, OSError}


def test_disks_of_files_and_memory_serve_a_guest(driver, tmp_path):
    base, top = tmp_path / "base", tmp_path / "top"
    base.write_bytes(bytes(8192))
    for disk in (
        vmm.Disk.memory(8192),
        vmm.Disk.overlay(base),
        vmm.Disk.overlay(base, top, create=True),
    ):
        with disk:
            assert drive(driver, "disk", disks=[disk]) == 0
        assert base.read_bytes() == bytes(8192)
    with vmm.Disk.overlay(base, top) as disk:
        assert drive(driver, "disk", disks=[disk]) == 0
    with vmm.Disk.open(base) as disk:
        assert drive(driver, "disk", disks=[disk]) == 0
    assert base.read_bytes() != bytes(8192)
    # A guest that writes to what is only read: its first request fails.
    with vmm.Disk.open(base, read_only=True) as disk:
        assert drive(driver, "disk", disks=[disk]) == 21
    disk = vmm.Disk.memory(8192)
    assert drive(driver, "disk", disks=[disk.configure(read_only=True)]) == 21
    with pytest.raises(vmm.WrongState):
        drive(driver, "disk", disks=[disk])
    with pytest.raises(vmm.BadConfig, match="20 bytes"):
        drive(driver, "disk", disks=[vmm.Disk.memory(512).configure(serial="x" * 21)])
    with pytest.raises(vmm.HostError, match="no/such"):
        vmm.Disk.open("no/such/disk")


class Mirror(vmm.VirtioDevice):
    name = "mirror"
    id = 42
    queues = [64]
    config = bytes.fromhex("44332211")

    def __init__(self):
        self.written, self.resets, self.seen = None, 0, []

    def wake(self, io, source):
        assert source is None
        while (chain := io.pop()) is not None:
            self.seen.append((chain.readable, chain.writable, chain.read(1, 2)))
            assert io.features >> 32 == 1
            chain.write(chain.read()[::-1])
            chain.complete()
        assert io.pop(7) is None

    def write_config(self, offset, data):
        self.written = offset, data

    def reset(self):
        self.resets += 1


def test_a_virtio_device_in_python_serves_a_guest(driver):
    mirror = Mirror()
    assert drive(driver, "echo", devices=[mirror]) == 0
    assert mirror.seen == [(5, 16, b"el")]
    assert mirror.written == (4, b"\x07\0\0\0") and mirror.resets >= 1


def test_a_source_wakes_a_virtio_device_that_kept_a_chain(driver):
    class Later(Mirror):
        def __init__(self):
            super().__init__()
            self.fd, self.writer = os.pipe()
            self.sources, self.kept = [self.fd], None

        def wake(self, io, source):
            if source is None:
                self.kept = io.pop() or self.kept
                if self.kept:
                    os.write(self.writer, b"!")
            else:
                os.read(self.fd, 1)
                if self.kept:
                    self.kept.write(self.kept.read()[::-1])
                    self.kept.complete()
                    self.kept = None

    later = Later()
    assert drive(driver, "echo", devices=[later]) == 0
    os.close(later.fd)
    os.close(later.writer)


def test_what_passes_by_a_virtio_device_is_counted(driver):
    class Refuses(Mirror):
        def wake(self, io, source):
            while (chain := io.pop()) is not None:
                chain.write(chain.read()[::-1])
                chain.fail()

    settings = {"memory": 4 << 20, "boot": vmm.Elf64(driver, "echo"), "debug_exit": True}
    with vmm.Machine(**settings, backend="soft", devices=[Refuses()], accounting="counts") as m:
        assert m.run().code == 0
        (traffic,) = m.traffic()
    assert (traffic.name, traffic.requests, traffic.errors) == ("mirror", 1, 1)
    # A bell that the reactor has not heard before the end is not counted.
    assert (traffic.read_bytes, traffic.written_bytes) == (5, 5) and traffic.notifications <= 1


class Terminal:
    """The other end of a console, in Python."""

    def __init__(self, *given):
        self.readable, self.writer = os.pipe()
        os.write(self.writer, b"!")
        self.given, self.said, self.most = list(given), b"", 100

    def send(self, data):
        self.said += data[: self.most]
        return min(len(data), self.most)

    def receive(self, size):
        return self.given.pop(0) if self.given else None

    def close(self):
        os.close(self.readable)
        os.close(self.writer)


def test_a_console_in_python_talks_to_a_guest(driver):
    terminal = Terminal(b"input")
    with vmm.Console(terminal, size=(80, 25)) as console:
        assert drive(driver, "console", consoles=[console]) == 0
        with pytest.raises(vmm.WrongState):
            drive(driver, "console", consoles=[console])
    assert terminal.said == b"hello\n"
    # A few bytes at a time.
    terminal.given, terminal.said, terminal.most = [b"input"], b"", 4
    assert drive(driver, "console", consoles=[vmm.Console(terminal, size=(80, 25))]) == 0
    assert terminal.said == b"hello\n"
    terminal.close()


def test_a_console_has_sockets_and_pipes(driver):
    ours, theirs = socket.socketpair()
    ours.send(b"input")
    assert drive(driver, "console", consoles=[vmm.Console(theirs, size=(80, 25))]) == 0
    assert ours.recv(100) == b"hello\n"
    pair = (theirs.fileno(), theirs.fileno())
    ours.send(b"input")
    assert drive(driver, "console", consoles=[vmm.Console(pair, size=(80, 25))]) == 0
    assert ours.recv(100) == b"hello\n"
    ours.close()
    theirs.close()


def test_what_the_other_end_of_a_console_raises_is_logged(driver, caplog):
    def refuses(data):
        raise KeyError(data)

    # The guest is not kept waiting for what cannot be sent.
    terminal = Terminal(b"input")
    terminal.send = refuses
    assert drive(driver, "console", consoles=[vmm.Console(terminal, size=(80, 25))]) == 0
    assert {record.exc_info[0] for record in caplog.records} == {KeyError}
    with pytest.raises(TypeError, match="5"):
        vmm.Console(5)
    with pytest.raises(vmm.HostError):
        vmm.Console((None, 1 << 20))
    with pytest.raises(vmm.Error, match="port"):
        vmm.Console(print, ports={"": print})
    terminal.close()


def test_what_a_virtio_device_raises_is_raised_by_run(driver):
    class Bad(Mirror):
        def wake(self, io, source):
            raise LookupError("nothing here")

    with pytest.raises(LookupError, match="nothing here"):
        drive(driver, "echo", devices=[Bad()])


def test_an_image_is_looked_at(driver):
    found = vmm.inspect(driver)
    assert found.best is vmm.Way.ELF64 and "not " in str(found)


def test_what_the_library_says_goes_to_a_logger(driver, caplog):
    class Broken(Store):
        def write(self, at, data):
            raise OSError(5, "no")

    caplog.set_level(logging.DEBUG, "quiet")
    vmm.log_to(logging.getLogger("quiet"), logging.DEBUG)
    try:
        assert drive(driver, "disk", disks=[vmm.Disk.of(Broken(8192), 8192)]) == 21
    finally:
        vmm.log_to(None)
    ours = [record for record in caplog.records if record.name.startswith("quiet.devices")]
    assert any("block" in record.getMessage() for record in ours)


@pytest.fixture
def script():
    """Makes guests that are lists of accesses, where the library was built with them."""
    testing = FFI()
    testing.cdef("""
        typedef struct { uint32_t what, size; uint64_t at, value; } vmm_testing_access;
        int vmm_testing_script(const vmm_testing_access *, size_t, void **);
    """)
    lib = testing.dlopen(str(Path(vmm.library.__file__).with_name("libvmm.so")))
    if not hasattr(lib, "vmm_testing_script"):
        print("skipped: test_devices.py: the library was built without the feature `testing`")
        pytest.skip("built without the feature `testing`")

    def make(*accesses):
        given = testing.new("vmm_testing_access[]", list(accesses))
        assert lib.vmm_testing_script(given, len(accesses), testing.NULL) == 0

    return make


IN, OUT, HLT = 0, 1, 4


def test_a_script_stands_for_a_guest(script):
    script((IN, 1, 0x50, 0), (OUT, 1, 0x50, 9), (HLT, 1, 0, 0))
    assert machine(HALT, backend="script", devices=[Echo(3)]).run().code == 9


def resident():
    """This process's own memory in KiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


def cycles(count, make):
    """Makes and frees so many, without anything growing."""

    def once(n):
        made = make()
        if n % 2:
            made.close()

    def now():
        gc.collect()
        threads, files = os.listdir("/proc/self/task"), os.listdir("/proc/self/fd")
        return len(Kept._all), len(threads), len(files)

    for n in range(count // 4):
        once(n)
    before, memory = now(), resident()
    for n in range(count):
        once(n)
    assert now() == before
    # In thousands, a page for each of them would be more than this.
    assert resident() - memory < max(8192, 2 * count)


@pytest.mark.parametrize(
    "backend, count", [("script", 10_000 if LONG else 400), ("soft", 10_000 if LONG else 200)]
)
def test_machines_do_not_grow(backend, count, script):
    script((IN, 1, 0x50, 0), (OUT, 1, 0x50, 9), (HLT, 1, 0, 0))

    def make():
        made = machine(ECHO, backend=backend, devices=[Echo(9)])
        assert made.run().code == 9
        return made

    cycles(count, make)


def test_machines_on_kvm_do_not_grow():
    try:
        machine(HALT, backend="kvm").close()
    except vmm.Error as error:
        print(f"skipped: test_machines_on_kvm_do_not_grow: {error}")
        pytest.skip(str(error))

    def make():
        made = machine(HALT, backend="kvm")
        assert made.run().ending is vmm.Ending.HALTED
        return made

    cycles(500 if LONG else 40, make)


def test_the_interpreter_ends_while_a_machine_runs():
    program = (
        "import logging, sys, vmm\n"
        "vmm.log_to(logging.getLogger('vmm'), logging.DEBUG)\n"
        "m = vmm.Machine(memory=1 << 20, boot=vmm.LongMode(b'\\xeb\\xfe'), interrupts=False)\n"
        "m.start()\n"
        # These have threads too, and what is kept here is freed after everything else.
        "class Zeros:\n"
        "    def read(self, at, size): return bytes(size)\n"
        "disks = [vmm.Disk.of(Zeros(), 512)]\n"
        "more = vmm.Machine(memory=1 << 20, boot=vmm.LongMode(b'\\xeb\\xfe'), backend='soft', disks=disks,\n"
        "    consoles=[vmm.Console(print)])\n"
        "more.start()\n"
        "sys.kept = disks, more\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
