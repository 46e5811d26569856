"""aefast.patch and unpatch, tested on scikit-learn's classes."""

import inspect
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.decomposition import PCA, FactorAnalysis, sparse_encode  # noqa: E402
from sklearn.neural_network import BernoulliRBM  # noqa: E402

import aefast  # noqa: E402
from aefast import patching  # noqa: E402
from aefast.patching import sklearn as peer  # noqa: E402
from aefast.patching import versions  # noqa: E402

CLASSES = [BernoulliRBM, PCA, FactorAnalysis]
RBM = "sklearn.neural_network.BernoulliRBM"


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).random((40, 6))


def small(kind):
    return kind(2, n_iter=2, random_state=0) if kind is BernoulliRBM else kind(2, random_state=0)


def everything():
    """The attributes of all classes and modules that have replaced functions."""
    owners = {id(one.owner): one.owner for one in peer.replacements()}
    return {key: list(vars(owner).items()) for key, owner in owners.items()}


def is_same(before, after):
    return before.keys() == after.keys() and all(
        [(n, id(v)) for n, v in before[key]] == [(n, id(v)) for n, v in after[key]]
        for key in before
    )


def test_unpatch_leaves_no_trace(X):
    before = everything()
    aefast.patch("sklearn")
    assert not is_same(before, everything())
    for kind in CLASSES:
        small(kind).fit(X)
    aefast.unpatch("sklearn")
    assert is_same(before, everything())


def test_a_patch_ends_with_its_block_by_an_error_too():
    before = everything()
    with pytest.raises(ZeroDivisionError), aefast.patch("sklearn"):
        raise ZeroDivisionError
    assert is_same(before, everything())


def test_a_block_takes_back_what_it_put_in_place_and_no_more():
    aefast.patch("sklearn")
    with aefast.patch("sklearn") as inner:
        assert repr(inner) == "<aefast.patch of nothing more>"
    assert aefast.patched()[RBM].served
    with aefast.patch("sklearn"):
        aefast.unpatch()  # a block's end does not undo it a second time
    assert not aefast.patched()[RBM].served


def test_a_class_keeps_all_that_shows(X):
    def face(kind):
        methods = [getattr(kind, name) for name in ("__init__", "fit", "transform")]
        names = [(m.__module__, m.__qualname__, m.__doc__) for m in methods]
        signatures = [inspect.signature(m) for m in methods]
        return kind.__name__, kind.__module__, names, signatures, kind().get_params()

    before = [face(kind) for kind in CLASSES]
    signature = inspect.signature(sparse_encode)
    with aefast.patch("sklearn"):
        assert [face(kind) for kind in CLASSES] == before
        assert inspect.signature(sparse_encode) == signature
        assert pickle.loads(pickle.dumps(PCA.fit)) is PCA.fit
        model = clone(small(PCA).set_params(whiten=True))
        assert model.get_params()["whiten"] is True


@pytest.mark.parametrize("kind", CLASSES)
def test_a_model_has_the_attributes_that_it_has_unpatched_and_no_more(kind, X):
    plain = small(kind).fit(X)
    with aefast.patch("sklearn"):
        model = small(kind).fit(X)
    assert set(vars(model)) == set(vars(plain))
    for name, value in vars(plain).items():
        attribute = vars(model)[name]
        assert type(attribute) is type(value)
        assert np.shape(attribute) == np.shape(value)
        assert getattr(attribute, "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize("kind", CLASSES)
def test_models_go_to_and_fro(kind, X):
    """Models pickled with the patch predict and are fitted without it, and the other way round."""
    plain = pickle.dumps(small(kind).fit(X))
    with aefast.patch("sklearn"):
        model = pickle.loads(plain)
        codes = model.transform(X)
        pickled = pickle.dumps(small(kind).fit(X))
        if kind is BernoulliRBM:
            model.partial_fit(X)
    assert np.array_equal(pickle.loads(plain).transform(X), codes)
    model = pickle.loads(pickled)
    assert model.transform(X).shape == codes.shape
    if kind is BernoulliRBM:
        model.partial_fit(X)


def test_what_was_imported_before_is_served(X):
    with aefast.patch("sklearn"):
        BernoulliRBM(2, n_iter=1).fit(X)  # by the name that was imported before the patch
        assert aefast.patched()[RBM].calls == 1


def test_a_subclass_with_a_method_that_the_original_calls_gets_the_original(X):
    class Watched(BernoulliRBM):
        steps = 0

        def _fit(self, rows, rng):
            Watched.steps += 1
            super()._fit(rows, rng)

    class Renamed(BernoulliRBM):
        pass

    with aefast.patch("sklearn"):
        Watched(2, n_iter=1).fit(X)
        Renamed(2, n_iter=1).fit(X)
        state = aefast.patched()[RBM]
    assert Watched.steps == 4
    assert state.calls == 1
    assert state.original_calls == {"a subclass with a _fit of its own": 1}


def test_the_map_says_what_is_served_and_why_not(X):
    assert aefast.patched()[RBM] == patching.PatchStatus(False, "sklearn is not patched")
    with aefast.patch("sklearn"):
        with pytest.raises(ValueError, match="NaN"):
            BernoulliRBM().fit(X * np.nan)
        states = aefast.patched()
        assert states.keys() >= peer.PUBLIC_NAMES.keys()
        assert states[RBM] == patching.PatchStatus(True, peer.PUBLIC_NAMES[RBM], 0, {})


def test_nothing_is_half_patched_where_a_version_is_unknown(monkeypatch):
    known = peer.replacements()
    for last in (
        replace(known[-1], parameters=("X", "atoms")),
        replace(known[-1], name="_not_there"),
        replace(known[0], relies_on=("_not_there",)),
    ):
        monkeypatch.setattr(peer, "replacements", lambda last=last: [*known[:-1], last])
        before = everything()
        with pytest.raises(patching.UnknownVersionError, match=r"nothing was patched$") as error:
            aefast.patch("sklearn")
        assert "\n" not in str(error.value)
        assert is_same(before, everything())
        assert not aefast.patched()[RBM].served


def test_if_one_replacement_raises_none_stays(monkeypatch):
    put = patching.Installed.__init__
    done = []

    def second_raises(self, one):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(one)
        put(self, one)

    before = everything()
    monkeypatch.setattr(patching.Installed, "__init__", second_raises)
    with pytest.raises(KeyboardInterrupt):
        aefast.patch("sklearn")
    assert is_same(before, everything())
    assert not aefast.patched()[RBM].served


def test_which_versions_were_tested(monkeypatch):
    monkeypatch.setattr(versions.metadata, "version", lambda distribution: "0.50.1")
    line = "rbms is 0.50.1; aefast.patch was tested with 0.4, 0.5"
    assert versions.untested_version("rbms", ("0.4", "0.5")) == line
    monkeypatch.setattr(versions.metadata, "version", lambda distribution: "0.5.1")
    assert versions.untested_version("rbms", ("0.4", "0.5")) is None


def test_an_untested_version_is_patched_after_a_trial_and_says_so(monkeypatch, X):
    monkeypatch.setattr(peer, "VERSIONS", ("0.1",))
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    with pytest.warns(UserWarning, match="tested with 0.1; a trial of it gave the same") as warned:
        aefast.patch("sklearn")
    assert warned[0].filename == __file__
    assert np.array_equal(np.random.get_state()[1], state[0])
    assert torch.equal(torch.get_rng_state(), state[1])
    assert aefast.patched()[RBM] == patching.PatchStatus(True, peer.PUBLIC_NAMES[RBM], 0, {})


def upside_down(fit_full):
    def serve(self, X, *options):
        result = fit_full(self, X, *options)
        self.components_ = -self.components_
        return result

    return serve


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        (upside_down(PCA._fit_full), "in a trial of this version PCA .* gave other results"),
        (lambda *_: 1 / 0, r"a trial of this version failed \(division by zero\)"),
    ],
)
def test_an_untested_version_that_differs_is_not_patched(monkeypatch, serve, message):
    changed = [
        replace(one, serve=serve) if one.name == "_fit_full" else one for one in peer.replacements()
    ]
    monkeypatch.setattr(peer, "replacements", lambda: changed)
    monkeypatch.setattr(peer, "VERSIONS", ("0.1",))
    before = everything()
    with pytest.raises(patching.UnknownVersionError, match=message) as error:
        aefast.patch("sklearn")
    assert str(error.value).endswith("; nothing was patched")
    assert "\n" not in str(error.value)
    assert is_same(before, everything())


def test_a_version_that_lacks_a_module_is_unknown(monkeypatch):
    def replacements():
        raise ImportError("cannot import name 'randomized_svd'")

    monkeypatch.setattr(peer, "replacements", replacements)
    with pytest.raises(patching.UnknownVersionError, match=r"lacks .* 'randomized_svd'"):
        aefast.patch("sklearn")


def test_what_another_replaced_since_is_not_undone(monkeypatch):
    aefast.patch("sklearn")
    actual = BernoulliRBM.fit
    monkeypatch.setattr(BernoulliRBM, "fit", lambda self, X, y=None: self)
    with pytest.raises(RuntimeError, match=r"BernoulliRBM.fit was replaced .*; undo that first"):
        aefast.unpatch("sklearn")
    assert aefast.patched()[RBM].served
    monkeypatch.undo()
    assert BernoulliRBM.fit is actual


def test_an_inherited_method_is_inherited_again(monkeypatch, X):
    class Parent:
        def fit(self, X):
            return "parent"

    class Child(Parent):
        pass

    child = patching.Replacement("it", Child, "fit", ("self", "X"), lambda self, X: "served")
    monkeypatch.setattr(peer, "replacements", lambda: [child])
    with aefast.patch("sklearn"):
        assert (Child().fit(X), Parent().fit(X)) == ("served", "parent")
    assert "fit" not in vars(Child)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: aefast.patch("skl"), ValueError, "package is 'skl'; it takes 'sklearn'"),
        (lambda: aefast.patch(["sklearn"]), ValueError, r"package is \['sklearn'\]; it takes"),
        (lambda: aefast.patch(), ValueError, "patch takes one package or more: 'sklearn'"),
        (lambda: aefast.unpatch("skl"), ValueError, "package is 'skl'; it takes 'sklearn'"),
        (lambda: aefast.unpatch("sklearn"), ValueError, "sklearn is not patched; aefast.patched"),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=f"^{message}") as raised:
        call()
    assert "\n" not in str(raised.value)


def test_a_package_that_is_not_installed(monkeypatch):
    find = patching.importlib.util.find_spec
    monkeypatch.setattr(
        patching.importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name)
    )
    before = everything()
    message = "^sklearn is not installed: pip install scikit-learn$"
    with pytest.raises(ModuleNotFoundError, match=message):
        aefast.patch("sklearn")
    assert is_same(before, everything())
    assert aefast.patched()[RBM].detail == "sklearn is not installed"
