"""Machines, devices and event loops."""

import asyncio
import gc
import os
import signal
import threading

import pytest

import vmm
from vmm.library import Kept

HALT = b"\xf4"
SPIN = b"\xeb\xfe"
#: in al, 0x50; out 0x50, al; hlt
ECHO = b"\xe4\x50\xe6\x50\xf4"


def machine(code, **settings):
    return vmm.Machine(memory=1 << 20, boot=vmm.LongMode(code), interrupts=False, **settings)


def test_a_serial_port_writes_to_a_descriptor():
    # mov dx, 0x3f8; mov al, '!'; out dx, al; hlt
    reader, writer = os.pipe()
    with machine(b"\x66\xba\xf8\x03\xb0!\xee\xf4", serial=(None, writer)) as m:
        assert m.run().ending is vmm.Ending.HALTED
        assert m.backend
    os.close(writer)
    assert os.read(reader, 10) == b"!"
    os.close(reader)


def test_memory_and_registers():
    m = machine(HALT)
    assert m.read(0x10000, 1) == HALT
    m.write(0x20000, b"abc")
    view = m.view(0x20000, 3)
    assert view.readonly and bytes(view) == b"abc"
    assert m.run().ending is vmm.Ending.HALTED
    assert m.registers()["rip"] == 0x10001
    m.set_registers(rip=0x10000, rbx=2**64 - 1)
    assert m.registers()["rbx"] == 2**64 - 1
    m.close()
    assert bytes(view) == b"abc"
    with pytest.raises(vmm.BadConfig):
        m.run()


def test_errors_have_classes_and_say_what():
    with pytest.raises(vmm.GuestMemory):
        machine(HALT).read(1 << 20, 1)
    with pytest.raises(vmm.BadConfig, match="steam"):
        machine(HALT, backend="steam")
    with pytest.raises(vmm.HostError, match="no/such") as error:
        vmm.Machine(memory=1 << 20, boot=vmm.Linux("no/such"))
    assert error.value.errno == 2
    with pytest.raises(AttributeError, match="xyz"):
        machine(HALT).set_registers(xyz=1)


class Echo(vmm.Device):
    name = "echo"
    ports = [(0x50, 1)]

    def __init__(self, value):
        self.value = value

    def read(self, window, offset, size):
        return self.value

    def write(self, window, offset, size, value):
        raise vmm.PowerOff(value)


def test_a_device_answers_a_guest():
    assert machine(ECHO, devices=[Echo(42)]).run().code == 42


def test_what_a_device_raises_is_raised_by_run():
    with pytest.raises(OverflowError):
        machine(ECHO, devices=[Echo(1000)]).run()
    with pytest.raises(TypeError):
        machine(ECHO, devices=[Echo(None)]).run()


class Store(vmm.Device):
    """A key-value store: the key is written to the first port, values are at the second."""

    name = "store"
    ports = [(0x60, 2)]

    def __init__(self):
        self.values, self.key = {}, 0

    def write(self, window, offset, size, value):
        if offset == 0:
            self.key = value
        else:
            self.values[self.key] = value

    def read(self, window, offset, size):
        return self.values.get(self.key, 0)


def test_a_key_value_store_serves_a_guest():
    # Stores 7 at 3 and 9 at 4, reads 3 and powers off with it.
    code = b"\xb0\x03\xe6\x60\xb0\x07\xe6\x61\xb0\x04\xe6\x60\xb0\x09\xe6\x61\xb0\x03\xe6\x60\xe4\x61\xe6\xf4"
    store = Store()
    assert machine(code, devices=[store], debug_exit=True).run().code == 7
    assert store.values == {3: 7, 4: 9}


def test_a_machine_is_stopped_paused_and_resumed_from_another_thread():
    with machine(SPIN) as m:
        m.start()
        m.pause(60)
        assert m.registers()["rip"] == 0x10000
        m.resume()
        m.stop()
        assert asyncio.run(asyncio.wait_for(m.wait(), 60)).ending is vmm.Ending.STOPPED


def test_a_task_that_is_cancelled_stops_its_machine():
    async def run():
        m = machine(SPIN)
        m.start()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(m.wait(), 0.05)
        return await asyncio.wait_for(m.wait(), 60)

    assert asyncio.run(run()).ending is vmm.Ending.STOPPED


def test_other_threads_work_while_a_guest_runs():
    with machine(SPIN) as m:
        done = []

        def stop():
            done.extend(range(1000))
            m.stop()

        thread = threading.Timer(0.01, stop)
        thread.start()
        assert m.run().ending is vmm.Ending.STOPPED
        thread.join()
        assert len(done) == 1000


def test_exits_are_counted():
    with machine(b"\xe6\x80" * 5 + HALT, accounting="times") as m:
        m.run()
        counts = {count.name: count for count in m.exits()}
    assert counts["port out"].exits == 5 and counts["return"].exits == 1
    with pytest.raises(vmm.WrongState, match="not counted"):
        machine(HALT).exits()
    with pytest.raises(ValueError, match="seconds"):
        machine(HALT, accounting="seconds")


class Counter(Echo):
    """Counts its reads, and can be saved."""

    ports = [(0x50, 1), (0x60, 1)]

    def read(self, window, offset, size):
        self.value += 1
        return self.value

    def save(self):
        return bytes([self.value])

    def restore(self, state):
        (self.value,) = state


def test_a_machine_that_is_saved_goes_on_elsewhere():
    # in al, 0x50; hlt; in al, 0x50; out 0x50, al
    code = b"\xe4\x50\xf4\xe4\x50\xe6\x50"
    with machine(code, devices=[Counter(4)]) as first:
        assert first.run().ending is vmm.Ending.HALTED
        saved, memory = first.save(), first.read(0, 1 << 20)
    with machine(code, devices=[Counter(0)]) as second:
        second.write(0, memory)
        second.restore(saved)
        assert second.run().code == 6
    with machine(HALT, devices=[Echo(0)]) as m, pytest.raises(vmm.Unsupported, match="echo"):
        m.save()
    with machine(HALT) as m, pytest.raises(vmm.Incompatible):
        m.restore(saved)
    with machine(HALT) as m, pytest.raises(vmm.SnapshotError):
        m.restore(b"no")


def test_what_a_device_raises_is_raised_by_save_and_restore():
    class Refuses(Counter):
        def restore(self, state):
            raise LookupError(state)

    m = machine(HALT, devices=[Refuses(3)])
    saved = m.save()
    with pytest.raises(LookupError):
        m.restore(saved)
    with machine(HALT, devices=[Counter(300)]) as m, pytest.raises(ValueError):
        m.save()


def test_a_child_of_fork_has_nothing():
    m = machine(HALT)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            m.run()
        except vmm.WrongProcess:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0) == (child, 0)
    assert m.run().ending is vmm.Ending.HALTED


def interrupt_me():
    """Sends this process SIGINT from another thread."""
    threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()


@pytest.mark.parametrize("backend", ["auto", "soft"])
def test_control_c_ends_a_run_that_can_go_on(backend):
    # in al, 0x50; cmp al, 7; jne back; out 0x50, al
    echo = Echo(0)
    with machine(b"\xe4\x50\x3c\x07\x75\xfa\xe6\x50", devices=[echo], backend=backend) as m:
        interrupted = threading.Event()
        echo.read = lambda *_: interrupted.is_set() or interrupted.set() or interrupt_me() or 0
        with pytest.raises(KeyboardInterrupt):
            m.run()
        assert m.state is vmm.State.PAUSED
        assert 0x10000 <= m.registers()["rip"] < 0x10008
        echo.read = lambda *_: 7
        assert m.run().code == 7


def test_eight_machines_on_eight_threads():
    codes = []

    def run(code):
        codes.append(machine(ECHO, devices=[Echo(code)]).run().code)

    threads = [threading.Thread(target=run, args=(code,)) for code in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == list(range(8))


def test_machines_leave_nothing():
    def cycle(close):
        m = machine(ECHO, devices=[Echo(1)], backend="soft")
        m.run()
        if close:
            m.close()

    cycle(True)
    gc.collect()
    descriptors, kept = os.listdir("/proc/self/fd"), len(Kept._all)
    for n in range(200):
        cycle(n % 2 == 0)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    assert len(Kept._all) == kept
