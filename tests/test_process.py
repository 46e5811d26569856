"""Signals during an op, and forks before the first one."""

import contextlib
import signal
import time
from pathlib import Path

import pytest
import torch

import aefast
from aefast import backend, functional
from aefast.acceleration.draws import drawn
from aefast.functional import sparse_encode
from tests.test_backend import run

if backend.unavailable("cpp", "cpu"):
    pytest.skip("the C++ extension is not built", allow_module_level=True)

_C = backend.extension()


def test_a_child_computes_that_was_forked_before_the_first_op():
    """OpenMP's threads are the parent's alone. A child that loads the extension itself must not
    wait for them, whether it imported the package before the fork or after it."""
    code, printed, errors = run(
        """
        import os, signal, time, torch
        torch.set_num_threads(2)
        torch.rand(4_000_000).sum(), torch.rand(600, 600) @ torch.rand(600, 600)

        def first_op():
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                from aefast.functional import corrupt
                corrupt(torch.empty(2048, 784), "masking", 0.5, seed=0)
                os._exit(0)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        own = first_op()
        import aefast
        print(own, first_op())
        """
    )
    assert (code, printed) == (0, "0 0"), errors


def test_a_child_trains_that_was_forked_after_ops_of_two_threads():
    """An optimizer's zeros are torch's own operation, which would wait for two threads."""
    code, printed, errors = run(
        """
        import os, signal, torch, aefast
        from aefast.estimators import Autoencoder
        torch.set_num_threads(2)

        def train():
            x = torch.relu(torch.rand(2000, 500))
            model = aefast.nn.Autoencoder(500, 100)
            aefast.fit(model, x, torch.optim.Adam(model.parameters()), epochs=1, seed=0)
            Autoencoder(100, n_iter=1).fit(x.numpy()).score(x.numpy())

        train()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            train()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.get_num_threads())
        """
    )
    assert (code, printed) == (0, "0 2"), errors


def test_children_train_that_were_forked_while_another_thread_fits():
    code, printed, errors = run(
        """
        import os, signal, threading, torch, aefast
        torch.set_num_threads(2)

        x = torch.rand(1024, 512)

        def train(model):
            optimizer = torch.optim.Adam(model.parameters())
            aefast.fit(model, x, optimizer, epochs=2, batch_size=1024, seed=0)
            return model.loss(x)

        model = aefast.nn.Autoencoder(512, 64)
        train(model)
        ended = threading.Event()

        def train_on():
            while not ended.is_set():
                train(model)

        thread = threading.Thread(target=train_on)
        thread.start()
        statuses = []
        for _ in range(3):
            ended.wait(0.03)
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                train(aefast.nn.Autoencoder(512, 64)).backward()
                os._exit(0)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        ended.set()
        thread.join()
        print(*statuses)
        """
    )
    assert (code, printed) == (0, "0 0 0"), errors


def test_numba_caches_only_where_it_may_write(monkeypatch):
    """numba refuses to compile if it can write its cache nowhere, as for a user without a home in a
    folder of another user's. Then each process compiles for itself, without a cache."""
    caching = pytest.importorskip("numba.core.caching")
    from aefast.ops.shared import numba as shared

    assert shared._has_place_for_cache()
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert not shared._has_place_for_cache()
    for path in Path(aefast.__file__).parent.rglob("numba*.py"):
        outside = path.read_text().replace("njit(cache=True)(_has_place_for_cache)", "")
        assert "cache=True" not in outside, f"{path} caches without asking"


class Heard(Exception):
    pass


@contextlib.contextmanager
def alarms(handler, interval):
    """Calls a handler in the main thread, again and again, so many seconds after it returned."""

    def handle(*_):
        handler()
        signal.setitimer(signal.ITIMER_REAL, interval)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def raise_heard():
    raise Heard


def multiply(rows, depth, threads):
    """The product of a matrix of equal rows with itself transposed."""
    row = torch.linspace(-1, 1, depth)
    output = torch.empty(rows, rows)
    operand = row.data_ptr(), rows, depth, 0, 1
    _C.gemm(
        operand, operand, 0, 0, _C.Activation.identity, output.data_ptr(), 0, False,
        _C.Precision.highest, threads,
    )  # fmt: skip
    return output


def encode(rows):
    """Sparse codes whose steps never reach the tolerance."""
    torch.manual_seed(0)
    x, atoms = torch.randn(rows, 128), torch.nn.functional.normalize(torch.randn(256, 128))
    with backend.use_backend("cpp"):
        return sparse_encode(x, atoms, 0.01, tolerance=0.0, steps=10**8)


def take_step(threads):
    """A training step with very long chains; it changes nothing before they end."""
    machine = aefast.nn.RBM(64, 64, k=10**6)
    before, data = machine.weight.clone(), torch.ones(100, 64)
    optimizer = torch.optim.SGD(machine.parameters(), lr=1.0)
    try:
        aefast.fit(machine, data, optimizer, epochs=1, batch_size=100, seed=0)
    finally:
        assert torch.equal(machine.weight, before)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "call",
    [lambda threads: multiply(3000, 1_000_000, threads), lambda threads: encode(10_000), take_step],
    ids=["product", "sparse coding", "training step"],
)
def test_a_long_call_hears_signals(call, count, threads):
    """Without the signal each call takes half a minute or more."""
    threads(count)
    start = time.perf_counter()
    with pytest.raises(Heard), alarms(raise_heard, 0.1):
        call(count)
    assert time.perf_counter() - start < 10


def test_a_long_draw_hears_signals():
    """A handler runs during the draw, and not only after it."""
    heard = []
    kernel = _C.mersenne_normal

    def draw(*arguments):
        with alarms(lambda: heard.append("signal"), 0.01):
            kernel(*arguments)
            heard.append("end")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_C, "mersenne_normal", draw)
        drawn(torch.empty(2**28), "randn")
    assert heard.index("end") > 1  # one of them may have waited for the end


WIDE = 5 * 10**7


@pytest.mark.parametrize(
    ("kernel", "call"),
    [
        ("kl_sparsity", lambda code: functional.kl_sparsity(code, 0.3)),
        (
            "activation_backward",
            lambda code: functional.linear_act(
                code[:, :4].t(), code.detach()[:, : WIDE // 2].t(), None, "gelu"
            ).sum(),
        ),
        (
            "draw_bits",
            lambda code: functional.contrastive_divergence(
                code.detach()[:, : WIDE // 4].ceil(), code[:, : WIDE // 4], None, None, seed=0
            )[0],
        ),
    ],
)
def test_a_call_of_one_wide_row_hears_signals(kernel, call):
    """A handler runs in the midst of a row, and not only after it."""
    heard = []
    run = getattr(_C, kernel)

    def hearing(*arguments, **options):
        with alarms(lambda: heard.append("signal"), 0.01):
            result = run(*arguments, **options)
            heard.append("end")
        return result

    with pytest.MonkeyPatch.context() as patch, backend.use_backend("cpp"):
        patch.setattr(_C, kernel, hearing)
        call(torch.full((1, WIDE), 0.25, requires_grad=True)).backward()
    assert heard.index("end") > 1  # one of them may have waited for the end


def test_a_handlers_own_products_leave_the_interrupted_one_right():
    """The handler interrupts a task whose packed operand is in its thread's memory."""
    expected = multiply(400, 60_000, 1)
    products = []
    with alarms(lambda: products.append(multiply(40, 500, 1)), 0.001):
        again = multiply(400, 60_000, 1)
    assert torch.equal(again, expected)
    assert products
    assert all(torch.equal(product, multiply(40, 500, 1)) for product in products)


def fit(threads):
    """Train with products that two threads share; return the parameters."""
    torch.manual_seed(0)
    model = aefast.nn.Autoencoder(500, 100)
    torch.set_num_threads(threads)
    optimizer = torch.optim.Adam(model.parameters())
    history = aefast.fit(model, torch.rand(2000, 500), optimizer, epochs=6, batch_size=100, seed=0)
    assert history.engine == "step"
    return [parameter.detach() for parameter in model.parameters()]


def test_a_handlers_own_steps_leave_the_interrupted_ones_right(threads):
    """The handler interrupts a job that a crew of threads shares."""
    threads(2)
    expected, products = fit(2), []
    with alarms(lambda: products.append(multiply(40, 500, 2)), 0.001):
        again = fit(2)
    assert all(map(torch.equal, again, expected))
    assert products
    assert all(torch.equal(product, multiply(40, 500, 1)) for product in products)
