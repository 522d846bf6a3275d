"""Sandboxes: programs, calls, functions of the host, forks."""

import errno
import os
import subprocess
import threading

import pytest

import vmm

from .test_machine import interrupt_me

INCLUDE = os.environ["VMM_GUEST_INCLUDE"]  # Where vmm_guest.h is.

SOURCE = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <vmm_guest.h>

long add(int a, unsigned char *bytes, size_t size) { for (size_t i = 0; i < size; i++) a += bytes[i]++; return a; }
int negative(void) { return -3; }
double half(double x) { return x / 2; }
bool is_big(long x) { return x > 1000; }
const char *greet(const char *name) { static char text[64]; snprintf(text, sizeof text, "hello %s", name); return text; }
static long total;
long count(long n) { return total += n; }
void knock_and_spin(void) { vmm_call("knock", NULL, 0, NULL); for (;;) { } }
void spin(void) { for (;;) { } }
long ask(long n)
{
    struct vmm_value argument = vmm_integer(n), result;
    long failed = vmm_call("twice", &argument, 1, &result);
    return failed ? failed : (long)result.word;
}
int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "cat") == 0) {
        char data[100];
        ssize_t n = read(0, data, sizeof data);
        write(1, data, n);
        return 5;
    }
    if (argc > 1 && strcmp(argv[1], "spin") == 0)
        spin();
    return (int)vmm_ready();
}
"""


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    directory = tmp_path_factory.mktemp("program")
    source = directory / "program.c"
    source.write_text("#include <stdbool.h>\n" + SOURCE)
    command = ["cc", "-static", "-O1", f"-I{INCLUDE}", str(source), "-o", str(directory / "program")]
    subprocess.run(command, check=True)
    return directory / "program"


@pytest.fixture(params=["auto", "soft"])
def backend(request):
    return request.param


@pytest.fixture
def ready(program, backend):
    with vmm.Sandbox(
        program, functions={"twice": lambda n: 2 * n}, backend=backend, timeout=600
    ) as sandbox:
        assert sandbox.start().ending is vmm.Ending.READY
        yield sandbox


def test_a_program_runs(program):
    sandbox = vmm.Sandbox(program, args=["program", "cat"], stdin=b"what it reads")
    outcome = sandbox.start()
    assert (outcome.ending, outcome.code, str(outcome)) == (vmm.Ending.EXITED, 5, "exited with status 5")
    assert sandbox.take_stdout() == b"what it reads"
    assert sandbox.take_stdout() == b""
    with pytest.raises(vmm.WrongState):
        sandbox.start()


def test_calls_take_and_give_every_kind(ready):
    data = bytearray(b"\x01\x02")
    assert ready.call("add", 10, data) == 13
    assert data == b"\x02\x03"
    assert ready.call("add", 10, b"\x01") == 11
    assert ready.call("negative", returns=vmm.int32) == -3
    assert ready.call("half", 5.0, returns=float) == 2.5
    assert ready.call("is_big", 1001, returns=bool) is True
    assert ready.call("greet", "wörld", returns=str) == "hello wörld"
    assert ready.call("ask", 21) == 42
    with pytest.raises(vmm.NotFound, match="nothing"):
        ready.call("nothing")
    with pytest.raises(TypeError):
        ready.call("add", object())
    with pytest.raises(ValueError):
        ready.call("greet", "long", returns=str, size=3)


def test_what_a_function_of_the_host_raises_is_raised_by_the_call(program):
    def twice(n):
        raise LookupError(n)

    sandbox = vmm.Sandbox(program, functions={"twice": twice})
    sandbox.start()
    with pytest.raises(LookupError, match="7"):
        sandbox.call("ask", 7)


def test_forks_and_resets(ready):
    assert ready.call("count", 1) == 1
    warm = ready.snapshot()
    children = [warm.fork() for _ in range(3)]
    assert [child.call("count", n) for n, child in enumerate(children)] == [1, 2, 3]
    assert children[0].call("ask", 4) == 8
    children[2].reset(warm)
    assert children[2].call("count", 10) == 11
    assert ready.call("count", 1) == 2


def test_a_snapshot_goes_to_a_file_and_comes_back(ready, backend, tmp_path):
    saved = tmp_path / "warm.vmm"
    assert ready.call("count", 30) == 30
    ready.snapshot().save(saved)
    assert ready.call("count", 1) == 31
    (missing,) = vmm.Snapshot.check(saved, backend=backend)
    assert (missing.kind, missing.name) == (vmm.ObstacleKind.FUNCTION, "twice")
    assert str(missing) == 'no host function "twice" was given'
    with pytest.raises(vmm.Incompatible, match='warm.vmm.*"twice"'):
        vmm.Sandbox.saved(saved, backend=backend)
    with pytest.raises(vmm.Incompatible, match='"twice"'):
        vmm.Snapshot.open(saved)

    lent = {"functions": {"twice": lambda n: 3 * n}, "backend": backend}
    assert vmm.Snapshot.check(saved, **lent) == []
    with vmm.Sandbox.saved(saved, timeout=600, **lent) as opened:
        assert opened.call("count", 1) == 31
        assert opened.call("ask", 2) == 6
        with opened.snapshot().fork() as child:
            assert child.call("count", 1) == 32


def test_a_snapshot_that_needs_nothing_is_opened(program, tmp_path):
    saved = tmp_path / "warm.vmm"
    sandbox = vmm.Sandbox(program)
    sandbox.start()
    sandbox.call("count", 5)
    sandbox.snapshot().save(str(saved))
    opened = vmm.Snapshot.open(os.fsencode(saved))
    assert [opened.fork().call("count", n) for n in (1, 2)] == [6, 7]
    # On the CPU in software there may be less than the host has.
    found = vmm.Snapshot.check(saved, backend="soft", baseline_only=True)
    assert all(one.kind is not vmm.ObstacleKind.FEATURE for one in found)


def test_a_file_that_was_changed_or_is_missing_is_refused(program, tmp_path):
    saved = tmp_path / "warm.vmm"
    sandbox = vmm.Sandbox(program)
    sandbox.snapshot().save(saved)
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1  # Of the last section.
    changed = tmp_path / "changed.vmm"
    changed.write_bytes(data)
    for open_it in (vmm.Snapshot.open, vmm.Snapshot.check, vmm.Sandbox.saved):
        with pytest.raises(vmm.SnapshotError, match="changed.vmm: section 'pages'"):
            open_it(changed)
        with pytest.raises(vmm.HostError, match="missing.vmm") as raised:
            open_it(tmp_path / "missing.vmm")
        assert raised.value.errno == errno.ENOENT
    with pytest.raises(vmm.HostError, match="no/such"):
        sandbox.snapshot().save(tmp_path / "no/such")


def test_time_runs_out_and_the_sandbox_comes_back(program):
    sandbox = vmm.Sandbox(program, timeout=0.05)
    sandbox.start()
    warm = sandbox.snapshot()
    with pytest.raises(vmm.Poisoned, match="took longer"):
        sandbox.call("spin")
    sandbox.reset(warm)
    assert sandbox.call("count", 1) == 1
    outcome = vmm.Sandbox(program, args=["program", "spin"], timeout=0.05).start()
    assert outcome.cause is vmm.Cause.TIMED_OUT


def test_a_pool_lends_and_takes_back(ready):
    with vmm.Pool(ready.snapshot(), 2) as pool:
        with pool.take() as first, pool.take() as second:
            assert (first.call("count", 3), second.call("count", 4)) == (3, 4)
            with pytest.raises(TimeoutError):
                pool.take(timeout=0.001)
            assert pool.statistics().in_use == 2
        with pool.take() as again:
            assert again.call("count", 5) == 5
        assert pool.statistics().resets >= 2
        lent = pool.take()
    assert lent.call("count", 6) == 6
    lent.close()
    with pytest.raises(vmm.BadConfig):
        pool.take()


def test_a_pool_serves_eight_threads(program):
    sandbox = vmm.Sandbox(program)
    sandbox.start()
    counts = []
    with vmm.Pool(sandbox.snapshot(), 3) as pool:

        def work(n):
            for _ in range(5):
                with pool.take() as child:
                    counts.append(child.call("count", n) - n)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts == [0] * 40


def test_vms_are_used_again(program):
    with vmm.VmCache(1) as vms:
        with vmm.Sandbox(program, vm_cache=vms) as sandbox:
            sandbox.start()
            warm = sandbox.snapshot()
        # The first one's is there for the next.
        for n in range(4):
            with warm.fork() as child:
                assert child.call("count", n) == n
        assert vms.statistics() == vmm.VmCacheStatistics(idle=1, reused=4, closed=0)
    with warm.fork() as child:
        assert child.call("count", 5) == 5


def test_a_sandbox_counts(ready):
    before = ready.statistics()
    assert before.memory > 4096 and before.system_calls > 0
    assert all(count > 0 for count in before.unknown_calls.values())


def test_control_c_ends_a_call(program):
    sandbox = vmm.Sandbox(program, functions={"knock": interrupt_me})
    sandbox.start()
    with pytest.raises(KeyboardInterrupt):
        sandbox.call("knock_and_spin")
