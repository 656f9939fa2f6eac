"""The native library in a program with several threads and processes, and with errors: each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from mlx_oss.backend import native

if native.vectors() is None:
    pytest.skip("the native library is not built", allow_module_level=True)

PREPARED = """
    import os, resource, signal, sys, threading, time
    import numpy as np
    from mlx_oss.backend.native import _native
    _native.use(0, 3)
    x, w = np.ones((9, 640), np.float32), np.ones((900, 640), np.float32)
    def product(x=x, w=w):
        out = np.zeros((len(x), len(w)), np.float32)
        _native.product(out, x, None, w, None, None, None, 0, 0, 0.0, 0.0, 0)
        return bool((out == 640).all())
"""


def said(program: str) -> str:
    """What a program prints that begins with PREPARED; it ends well."""
    program = textwrap.dedent(PREPARED) + textwrap.dedent(program)
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_forked_process_computes_with_threads_of_its_own():
    program = """
        assert product()
        child = os.fork()
        if child == 0:
            os._exit(0 if all(product() for _ in range(50)) else 1)
        assert all(product() for _ in range(50))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    said(program)


def test_a_process_is_forked_while_others_compute():
    program = """
        codes = []
        def compute():
            while len(codes) < 10:
                if not product():
                    codes.append("wrong")
        for _ in range(3):
            threading.Thread(target=compute).start()
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if product() and product() else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(codes)
    """
    assert said(program) == f"{[0] * 10}\n"


def test_while_threads_compute_others_may_change_how_many_there_are():
    """Each thread of the pool has memory of its own in attention: so much that a stray one ends the process."""
    program = """
        q, sinks = np.random.default_rng(0).standard_normal((1, 2, 300, 512), np.float32), np.zeros(2, np.float32)
        def seen(out):
            _native.attention(out, q, q, q, sinks, 0.3, 3)
            return out
        expected, wrong = seen(np.empty((1, 300, 2, 512), np.float32)), []
        def compute(number):
            out = np.empty_like(expected)
            for n in range(60):
                _native.use(0, 1 + (number + n) * 5 % 8)
                if not np.array_equal(seen(out), expected):
                    wrong.append(n)
        threads = [threading.Thread(target=compute, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
    """
    said(program)


def test_ctrl_c_is_raised_behind_the_product_and_the_next_one_is_right():
    program = """
        many = np.ones((5000, 640), np.float32)
        for _ in range(3):
            try:
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
                while True:
                    product(many)
            except KeyboardInterrupt:
                print(product())
    """
    assert said(program) == "True\n" * 3


def test_the_interpreter_ends_while_a_thread_computes():
    program = """
        def compute():
            while True:
                product()
        for _ in range(3):
            threading.Thread(target=compute, daemon=True).start()
        time.sleep(0.2)
        print("end")
    """
    assert said(program) == "end\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_without_memory_it_is_a_memory_error_and_then_all_is_well():
    program = """
        heads, sinks = np.ones((1, 64, 8, 4096), np.float32), np.zeros(64, np.float32)
        out = np.zeros((1, 8, 64, 4096), np.float32)
        _native.use(0, 250)
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20), resource.RLIM_INFINITY))
        for _ in range(3):
            try:
                _native.attention(out, heads, heads, heads, sinks, 0.3, 9)
            except MemoryError:
                print("MemoryError")
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        _native.use(0, 3)
        _native.attention(out, heads, heads, heads, sinks, 0.3, 9)
        print(product())
    """
    assert said(program).split() == ["MemoryError"] * 3 + ["True"]


def test_an_error_of_mlx_is_raised_and_does_not_end_the_process():
    program = """
        import mlx.core as mx
        from mlx_oss.backend import native
        made = []
        def other():
            made.append(mx.add(mx.ones((2, 32)), 1, stream=mx.new_stream(mx.cpu)))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        computed = mx.ones((2, 32))
        for x, weight in ((made[0], computed), (computed, made[0])):
            try:
                native.product(x, None, [weight])
            except RuntimeError as error:
                print("raised")
    """
    assert said(program) == "raised\n" * 2
