"""What Python costs: measure.py PROGRAM, with the package at hand."""

import os
import signal
import statistics
import sys
import threading
import time

import vmm
from cffi import FFI

ACCESSES, CALLS, TIMES = 20_000, 2_000, 21


class Idle(vmm.Device):
    ports = [(0x50, 1)]


def median(measure):
    return statistics.median(measure() for _ in range(TIMES))


def access():
    """Nanoseconds of an OUT to a device in Python."""
    machine = vmm.Machine(
        memory=1 << 20, boot=vmm.RealMode(b"\xf4"), interrupts=False, backend="script", devices=[Idle()]
    )
    start = time.perf_counter()
    machine.run()
    took = time.perf_counter() - start
    machine.close()
    return took / ACCESSES * 1e9


def interrupt():
    """Milliseconds from a signal to KeyboardInterrupt."""
    sent = []

    def send():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    with vmm.Machine(memory=1 << 20, boot=vmm.LongMode(b"\xeb\xfe"), interrupts=False) as machine:
        threading.Timer(0.05, send).start()
        try:
            machine.run()
        except KeyboardInterrupt:
            return (time.perf_counter() - sent[0]) * 1e3


def main():
    testing = FFI()
    testing.cdef("""
        typedef struct { uint32_t what, size; uint64_t at, value; } vmm_testing_access;
        int vmm_testing_script(const vmm_testing_access *, size_t, void **);
    """)
    lib = testing.dlopen(os.environ.get("VMM_LIBRARY") or os.path.join(os.path.dirname(vmm.__file__), "libvmm.so"))
    script = testing.new("vmm_testing_access[]", [(1, 1, 0x50, 7)] * ACCESSES + [(4, 1, 0, 0)])
    assert lib.vmm_testing_script(script, len(script), testing.NULL) == 0
    print(f"OUT to a device, hv::script      Python {median(access):.0f} ns (median of {TIMES})")

    with vmm.Sandbox(sys.argv[1]) as app:
        app.start()

        def calls():
            start = time.perf_counter()
            for _ in range(CALLS):
                app.call("same", 1)
            return (time.perf_counter() - start) / CALLS * 1e9

        print(f"call of a sandbox                Python {median(calls):.0f} ns (median of {TIMES})")
    print(f"Ctrl-C to KeyboardInterrupt      Python {median(interrupt):.2f} ms (median of {TIMES})")


main()
