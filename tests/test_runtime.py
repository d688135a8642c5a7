"""Choosing an ISA and a backend, the thread pool, the buffer cache, other libraries' arrays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import innerloop as il
from innerloop import _core
from support import equal_bits, numbers

BIG = 300_000  # elements: enough for several threads


def python(code: str, *launcher: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*launcher, sys.executable, "-c", code],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_isa_by_environment() -> None:
    for isa in il.isas():
        run = python("import innerloop as il; print(il.info()['isa'])", INNERLOOP_ISA=isa)
        assert run.stdout.strip() == isa, run.stderr


def test_unknown_isa_by_environment_is_an_error() -> None:
    run = python("import innerloop as il; il.info()", INNERLOOP_ISA="v9")
    assert run.returncode != 0 and "v9" in run.stderr and "ValueError" in run.stderr


def test_use_isa_restores() -> None:
    before = il.info()["isa"]
    for isa in il.isas():
        with il.use_isa(isa):
            assert il.info()["isa"] == isa
    assert il.info()["isa"] == before


@pytest.mark.parametrize("call", [il.use_isa, il.use_backend])
def test_unknown_choice(call) -> None:
    before = il.info()
    with pytest.raises(ValueError, match=r"must be one of .*, got 'nothing'"):
        call("nothing")
    assert il.info() == before


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="no qemu-x86_64")
def test_old_cpu_is_refused_at_import() -> None:
    """A CPU without SSE4.2 gets an ImportError that says so, not SIGILL."""
    package = str(Path(il.__file__).parents[1])
    code = (
        f"import sys; sys.path.insert(0, {package!r})\n"
        "try: import innerloop\n"
        "except ImportError as error: print('refused:', error)"
    )
    run = python(code, "qemu-x86_64", "-cpu", "Conroe")
    assert "refused: innerloop needs an x86-64-v2 processor" in run.stdout, run.stdout + run.stderr


def test_import_starts_no_thread() -> None:
    code = (
        "import numpy, os; before = len(os.listdir('/proc/self/task'))\n"
        "import innerloop as il; print(len(os.listdir('/proc/self/task')) - before)\n"
        f"il.set_num_threads(3); il.relu(numpy.ones({BIG}))\n"
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    run = python(code)
    assert run.stdout.split() == ["0", "2"], run.stderr


@pytest.mark.parametrize("name", ["INNERLOOP_NUM_THREADS", "OMP_NUM_THREADS"])
def test_threads_by_environment(name: str) -> None:
    env = {"INNERLOOP_NUM_THREADS": "", "OMP_NUM_THREADS": ""} | {name: "5"}
    assert (
        python("import innerloop as il; print(il.get_num_threads())", **env).stdout.strip() == "5"
    )


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_threads_respect_affinity() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import innerloop as il; print(il.get_num_threads())"
    )
    env = {"INNERLOOP_NUM_THREADS": "", "OMP_NUM_THREADS": ""}
    assert python(code, **env).stdout.strip() == "1"


@pytest.mark.parametrize(
    ("n", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)],
)
def test_bad_thread_counts(n: object, error: type[Exception]) -> None:
    before = il.get_num_threads()
    with pytest.raises(error, match="num_threads"):
        il.set_num_threads(n)
    assert il.get_num_threads() == before


def test_threads_beyond_the_cores(restore_threads: None) -> None:
    x = numbers(BIG, "float32")
    want = il.sigmoid(x)
    for n in (1, 2, 16, 3, 64, 2):
        il.set_num_threads(n)
        assert equal_bits(il.sigmoid(x), want)


def test_fork_while_the_pool_lives() -> None:
    code = (
        "import os, numpy as np, innerloop as il\n"
        f"il.set_num_threads(4); x = np.ones({BIG}, 'f4'); il.relu(x)\n"
        "child = os.fork()\n"
        "y = il.relu(x)\n"
        "assert (y == 1).all()\n"
        "if child == 0: os._exit(0)\n"
        "print(os.waitpid(child, 0)[1])"
    )
    run = python(code)
    assert run.stdout.strip() == "0", run.stderr


def test_concurrent_callers() -> None:
    """Calls from several Python threads at once: each gets its own right result."""
    inputs = [numbers(BIG, "float32", seed) for seed in range(4)]
    want = [il.gelu(x) for x in inputs]
    wrong = []

    def work(i: int) -> None:
        for _ in range(20):
            if not equal_bits(il.gelu(inputs[i]), want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_threadpoolctl_sees_the_pool(restore_threads: None) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    il.set_num_threads(3)
    found = [i for i in threadpoolctl.threadpool_info() if i["internal_api"] == "innerloop"]
    assert [i["num_threads"] for i in found] == [3]
    with threadpoolctl.threadpool_limits(1):
        assert il.get_num_threads() == 1
    assert il.get_num_threads() == 3


def test_buffers_are_reused_and_bounded() -> None:
    x = numbers(BIG, "float32")
    limit = il.info()["buffer_cache_limit"]
    try:
        il.empty_cache()
        assert _core.buffer_cache_held() == 0
        y = il.relu(x)
        address = y.ctypes.data
        assert address % 64 == 0
        del y
        assert _core.buffer_cache_held() >= x.nbytes
        again = il.relu(x)
        assert again.ctypes.data == address
        il.set_cache_limit(3 * x.nbytes)
        many = [il.relu(x) for _ in range(8)]
        del many
        assert x.nbytes <= _core.buffer_cache_held() <= 3 * x.nbytes
        il.set_cache_limit(0)
        del again
        assert _core.buffer_cache_held() == 0
    finally:
        il.set_cache_limit(limit)


@pytest.mark.parametrize(
    ("limit", "error"),
    [(-1, ValueError), (2**70, ValueError), (1.5, TypeError), (None, TypeError), (True, TypeError)],
)
def test_bad_cache_limits(limit: object, error: type[Exception]) -> None:
    before = il.info()["buffer_cache_limit"]
    with pytest.raises(error, match="bytes"):
        il.set_cache_limit(limit)  # type: ignore[arg-type]
    assert il.info()["buffer_cache_limit"] == before


def test_the_cache_is_a_share_of_memory() -> None:
    run = python("import innerloop as il; print(il.info()['buffer_cache_limit'])")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < int(run.stdout) <= memory // 16, run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux's means")
def test_a_full_cache_gives_way() -> None:
    """Memory that the cache holds is given back where a new buffer would not fit beside it."""
    code = """
import resource
import numpy as np, innerloop as il
il.set_cache_limit(1 << 40)
x, small = np.ones(10_000_000, np.float32), np.ones(2_000_000, np.float32)
held = [il.relu(small) for _ in range(40)]
del held
assert il.info()["buffer_cache_bytes"] > 200 << 20
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (20 << 20),) * 2)
assert il.relu(x)[-1] == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_buffers_between_threads() -> None:
    """Each thread's outputs are its own while it holds them, whoever freed the memory before."""
    wrong = []

    def work(value: int) -> None:
        x = np.full(BIG, value, "f4")
        for i in range(100):
            y = il.relu(x[: BIG - 1000 * (i % 7)])
            if not (y == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(1, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert _core.buffer_cache_held() <= il.info()["buffer_cache_limit"]


def test_a_forks_child_keeps_nothing_cached() -> None:
    code = (
        "import os, numpy as np, innerloop as il\n"
        "from innerloop import _core\n"
        f"x = np.ones({BIG}, 'f4'); kept = il.relu(x); il.relu(x)\n"
        "assert _core.buffer_cache_held() > 0\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    empty = _core.buffer_cache_held() == 0\n"
        "    right = (il.relu(-x) == 0).all() and (kept == 1).all()\n"
        "    os._exit(0 if empty and right else 1)\n"
        "print(os.waitpid(child, 0)[1], _core.buffer_cache_held() > 0)"
    )
    run = python(code)
    assert run.stdout.split() == ["0", "True"], run.stderr


def test_idle_threads_cost_no_cpu(restore_threads: None) -> None:
    """CPU time, not wall time: other work on the machine does not count."""
    x = numbers(BIG, "float32")
    il.set_num_threads(4)
    il.relu(x)
    time.sleep(0.05)  # more than the workers spin for
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


def test_a_view_keeps_its_buffer() -> None:
    x = numbers(BIG, "float32")
    tail = il.relu(x)[-5:]
    il.relu(-x)  # would take the buffer if it had been freed
    np.testing.assert_array_equal(tail, np.maximum(x[-5:], 0))


def test_floating_point_mode_is_left_alone() -> None:
    tiny = np.float32(1e-40)
    il.relu(numbers(BIG, "float32"))
    assert np.array([tiny]) * np.float32(0.5) != 0


@pytest.mark.parametrize("flush", [False, True])
def test_tasks_run_in_the_callers_floating_point_mode(flush: bool, restore_threads: None) -> None:
    """Whatever the mode was when the pool's threads started."""
    torch = pytest.importorskip("torch")
    x = np.full(BIG, -1e-38, "f4")
    il.set_num_threads(4)
    try:
        torch.set_flush_denormal(not flush)
        il.leaky_relu(x)
        torch.set_flush_denormal(flush)
        y = il.leaky_relu(x)
    finally:
        torch.set_flush_denormal(False)
    assert ((y == 0) == flush).all()


def test_packed_weights_between_threads_and_forks() -> None:
    """The panels that backward needs are laid out at first use, whoever asks first."""
    code = (
        "import os, threading, numpy as np, innerloop as il\n"
        "w = np.random.rand(700, 700).astype('f4'); x = np.ones((1, 700), 'f4')\n"
        "for i in range(30):\n"
        "    p = il.pack(w)\n"
        "    t = threading.Thread(target=lambda: il.linear_backward(x, x, p)); t.start()\n"
        "    if i % 10 == 0:\n"
        "        child = os.fork()\n"
        "        if child == 0:\n"
        "            il.linear_backward(x, x, p); os._exit(0)\n"
        "        assert os.waitpid(child, 0)[1] == 0\n"
        "    while t.is_alive(): assert (p.unpack() == w).all()\n"
        "    t.join()\n"
        "print('done')"
    )
    run = python(code)
    assert run.stdout.strip() == "done", run.stderr
