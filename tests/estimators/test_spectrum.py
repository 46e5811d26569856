"""The largest eigenvalues and their eigenvectors, of matrices that are hard for one of the ways."""

import threading

import numpy as np
import pytest

pytest.importorskip("sklearn")
from threadpoolctl import ThreadpoolController

from aefast.estimators import one_thread as one_thread_module
from aefast.estimators import spectrum
from aefast.estimators.one_thread import one_thread
from aefast.estimators.spectrum import leading_axes

SIZE = 48


def with_eigenvalues(values):
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))
    symmetric = axes * values @ axes.T
    return (symmetric + symmetric.T) / 2


def blocks():
    root = np.random.default_rng(0).normal(size=(6, 6))
    return np.kron(np.eye(SIZE // 6), root @ root.T)


MATRICES = {
    "spread": with_eigenvalues(np.linspace(1, 2, SIZE)),
    "falling": with_eigenvalues(np.geomspace(1, 1e-18, SIZE)),
    "of rank 3": with_eigenvalues(np.repeat([1.0, 0.0], [3, SIZE - 3])),
    "two values": with_eigenvalues(np.repeat([1.0, 2.0], SIZE // 2)),
    "equal blocks": blocks(),
    "diagonal": np.diag(np.random.default_rng(0).random(SIZE)),
    "identity": np.eye(SIZE),
    "zero": np.zeros((SIZE, SIZE)),
    "small": 1e-250 * blocks(),
    "large": 1e250 * blocks(),
}


@pytest.mark.parametrize("count", [1, 2, 3, 12, 23, 24, SIZE])
@pytest.mark.parametrize("name", MATRICES)
def test_axes_are_orthonormal_and_stretched_by_the_largest_eigenvalues(name, count):
    symmetric = MATRICES[name]
    scale = np.abs(symmetric).max() or 1.0
    values, axes = (tensor.numpy() for tensor in leading_axes(symmetric, count))
    rounding = SIZE * np.finfo(np.float64).eps
    expected = np.linalg.eigvalsh(symmetric / scale)[::-1][:count]
    np.testing.assert_allclose(values / scale, expected.clip(min=0), rtol=0, atol=rounding * 8)
    np.testing.assert_allclose(axes @ axes.T, np.eye(count), rtol=0, atol=rounding)
    stretched = axes @ (symmetric / scale)
    np.testing.assert_allclose(
        stretched, (values / scale)[:, None] * axes, rtol=0, atol=rounding * 8
    )


def test_the_axes_are_turned_in_blocks(monkeypatch):
    """LAPACK says at the end which memory the blocked form takes."""
    sizes = []

    def dormqr(*arguments, lwork):
        turned = spectrum_dormqr(*arguments, lwork=lwork)
        sizes.append((lwork, turned[1][0]))
        return turned

    spectrum_dormqr = spectrum.lapack.dormqr
    monkeypatch.setattr(spectrum.lapack, "dormqr", dormqr)
    leading_axes(MATRICES["spread"], 12)
    given, best = sizes[-1]
    assert given >= best


def test_where_inverse_iteration_does_not_converge_all_eigenvectors_are_found(monkeypatch):
    expected = leading_axes(MATRICES["spread"], SIZE)
    monkeypatch.setattr(spectrum.lapack, "dstein", lambda *_: (np.zeros((SIZE, 12)), 1))
    values, axes = leading_axes(MATRICES["spread"], 12)
    assert np.array_equal(values, expected[0][:12])
    assert np.array_equal(axes, expected[1][:12])


def threads():
    return [library.num_threads for library in ThreadpoolController().lib_controllers]


def test_threads_are_given_back_once_the_last_has_done():
    before = threads()
    first, second = one_thread(), one_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    blas = ThreadpoolController().select(user_api="blas").lib_controllers
    assert blas
    assert all(library.num_threads == 1 for library in blas)
    second.__exit__(None, None, None)
    assert threads() == before


class InterruptedAtTheEnd:
    """A lock whose first holder is interrupted just after it has given the lock back."""

    def __init__(self):
        self.lock, self.is_first = threading.RLock(), True

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()
        is_first, self.is_first = self.is_first, False
        if is_first:
            raise KeyboardInterrupt


def test_an_interrupt_gives_the_threads_back(monkeypatch):
    before = threads()
    monkeypatch.setattr(one_thread_module, "_lock", InterruptedAtTheEnd())
    with pytest.raises(KeyboardInterrupt), one_thread():
        pass
    assert threads() == before
    assert not one_thread_module._users


def test_a_signals_handler_may_compute_on_one_thread_meanwhile():
    def handle():
        with one_thread_module._lock, one_thread():
            ended.set()

    ended = threading.Event()
    threading.Thread(target=handle, daemon=True).start()
    assert ended.wait(20)
