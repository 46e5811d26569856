"""The CUDA graph engine without a GPU: its step is traced by make_fx instead of captured, and the
trace runs for each minibatch. A value that the step reads from Python is a constant of the trace,
as it would be of the graph."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import aefast
from aefast import nn
from aefast.data.dataset import Dataset, from_array
from aefast.data.tensor_rows import TensorRows
from aefast.step.minibatch_schedule import MinibatchSchedule
from aefast.training import graph_engine
from aefast.training.engines import LoopEngine
from aefast.training.graph_engine import DeviceRows, GraphEngine
from aefast.training.plain_model import PlainModel

ROWS, BATCH, WIDTH = 22, 6, 12

MODELS = {
    "plain": lambda: nn.Autoencoder(WIDTH, 5),
    "tied bce": lambda: nn.Autoencoder(
        WIDTH, 5, tied=True, reconstruction="bce", output_activation="sigmoid"
    ),
    "dropout": lambda: nn.Autoencoder(layers=[WIDTH, 8, 4], code_dropout=0.3),
    "denoising": lambda: nn.DenoisingAutoencoder(WIDTH, 5, corruption="masking"),
    "gaussian noise": lambda: nn.DenoisingAutoencoder(WIDTH, 5, corruption="gaussian"),
    "contractive": lambda: nn.ContractiveAutoencoder(WIDTH, 5),
    "sparse": lambda: nn.SparseAutoencoder(WIDTH, 5),
    "variational": lambda: nn.VariationalAutoencoder(WIDTH, 3, layers=[8]),
    "rbm": lambda: nn.RBM(WIDTH, 5),
    "persistent rbm": lambda: nn.RBM(WIDTH, 5, chains=7),
}

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, 1e-2),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 1e-2, weight_decay=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1),
}


class Traced:
    """Records a step, which takes it, and undoes what it has done: a graph's capture computes
    nothing. It is told ``model`` and ``engine`` when they are there."""

    def warm_up(self, step):
        step()

    def capture(self, step):
        tensors = [*self.model.state_dict().values(), *self.engine.buffers, self.engine.stopped]
        for state in self.engine.optimizer.fused.state.values():
            tensors += state.values()
        before = [tensor.detach().clone() for tensor in tensors]
        record = make_fx(step)()
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        return record


def schedule(epochs=2, first_step=0):
    order = torch.cat([torch.randperm(ROWS, generator=torch.manual_seed(e)) for e in range(epochs)])
    return MinibatchSchedule(order, BATCH, ROWS, [11, 12][:epochs])


def dataset():
    values = torch.randint(256, (ROWS, WIDTH), generator=torch.manual_seed(5), dtype=torch.uint8)
    return from_array(values.numpy(), "data")


def engines(make, make_optimizer, data):
    """The captured step, and the loop, each with a model and an optimizer of its own."""
    torch.manual_seed(1)
    first = make()
    first.train()
    second = copy.deepcopy(first)
    optimizers = [make_optimizer(model.parameters()) for model in (first, second)]

    def loss_of(model):
        return lambda x, seed: model.loss(x, seed=seed)

    example = next(first.parameters())
    capture = Traced()
    graph = GraphEngine(first, DeviceRows(data, example), optimizers[0], loss_of(first), capture)
    capture.model, capture.engine = first, graph
    loop = LoopEngine(second, data, optimizers[1], loss_of(second), "")
    return graph, loop, (first, second), optimizers


def assert_same_state(models, optimizers):
    for one, other in zip(*(model.state_dict().values() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-6)


def run_all(engine, whole):
    losses, rest = [], whole
    while len(rest.order):
        losses += engine.run(rest, 0.05)
        rest = whole.after(len(losses))
    return losses


QUICK = ("denoising", "contractive", "variational", "persistent rbm")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_a_replayed_step_is_the_loops(name):
    """The minibatches and draws are the same; an epoch's last minibatch is smaller."""
    graph, loop, models, optimizers = engines(MODELS[name], OPTIMIZERS["adam"], dataset())
    losses = run_all(graph, schedule())
    torch.testing.assert_close(losses, run_all(loop, schedule()), rtol=1e-4, atol=1e-6)
    assert len(losses) == 8
    assert_same_state(models, optimizers)


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_replayed_step_leaves_the_optimizer_as_its_own_steps_would(make_optimizer):
    """Also if replayed and ordinary steps alternate, and a scheduler changes the learning rate."""
    graph, loop, models, optimizers = engines(MODELS["plain"], make_optimizer, dataset())
    for rate in (1.0, 0.1):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] *= rate
        run_all(graph, schedule())
        run_all(loop, schedule())
    assert_same_state(models, optimizers)


def scale_state(model, optimizer):
    """Replace the optimizer's state by new tensors, as loading a checkpoint does."""
    state = copy.deepcopy(optimizer.state_dict())
    for averages in state["state"].values():
        averages["exp_avg"] *= -3
    optimizer.load_state_dict(state)


def replace_data(model, optimizer):
    for parameter in model.parameters():
        parameter.data = 0.5 * parameter.data


def load_chains(model, optimizer):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["chain"] = 1 - state["chain"][:4]
    model.load_state_dict(state)


CHANGES = {
    "betas": lambda model, optimizer: optimizer.param_groups[0].update(betas=(0.1, 0.9)),
    "weight decay": lambda model, optimizer: optimizer.param_groups[0].update(weight_decay=0.5),
    "frozen": lambda model, optimizer: next(model.parameters()).requires_grad_(False),
    "an optimizer's state": scale_state,
    "other memory": replace_data,
    "corruption level": lambda model, optimizer: setattr(model, "corruption_level", 0.9),
    "chains": load_chains,
}


OFTEN_CHANGED = ("weight decay", "frozen", "an optimizer's state", "chains")


@pytest.mark.parametrize(
    "name",
    [
        name if name in OFTEN_CHANGED else pytest.param(name, marks=pytest.mark.slow)
        for name in CHANGES
    ],
)
def test_what_a_callback_changes_is_seen_by_the_next_steps(name):
    model = "persistent rbm" if name == "chains" else "denoising"
    graph, loop, models, optimizers = engines(MODELS[model], OPTIMIZERS["adam"], dataset())
    for engine, which, optimizer in zip((graph, loop), models, optimizers, strict=True):
        run_all(engine, schedule(1))
        CHANGES[name](which, optimizer)
        run_all(engine, schedule(1))
    assert_same_state(models, optimizers)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_first_loss_that_is_not_finite_begins_no_state(name):
    data = TensorRows(torch.full((ROWS, WIDTH), torch.inf))
    graph, _, _, optimizers = engines(MODELS["plain"], OPTIMIZERS[name], data)
    assert len(graph.run(schedule(), 0.05)) == 1
    assert not optimizers[0].state


def test_a_fused_optimizer_keeps_its_count_of_steps_beside_the_parameter():
    count = torch.empty((), device="meta")
    devices = [graph_engine.count_device({"fused": fused}, count).type for fused in (None, True)]
    assert devices == ["cpu", "meta"]


@pytest.mark.parametrize("kind", ["byte order", "reversed", "read-only"])
def test_rows_are_taken_however_they_lie(kind):
    values = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH) / 300
    stored = values.astype(">f4") if kind == "byte order" else values.copy()
    stored = stored[::-1].copy()[::-1] if kind == "reversed" else stored
    stored.flags.writeable = kind != "read-only"
    data = Dataset(stored, (WIDTH,), 1.0, "data", 0.0, 1.0, 0)
    rows = DeviceRows(data, torch.empty(0))
    assert torch.equal(rows.take(torch.arange(ROWS)), torch.from_numpy(values))


def test_a_plain_model_with_its_loss_goes_too():
    def make():
        layers = torch.nn.Linear(WIDTH, 5), torch.nn.Tanh(), torch.nn.Linear(5, WIDTH)
        return PlainModel(torch.nn.Sequential(*layers), torch.nn.MSELoss())

    graph, loop, models, optimizers = engines(make, OPTIMIZERS["adam"], dataset())
    graph.capture.model = models[0].module
    run_all(graph, schedule())
    run_all(loop, schedule())
    assert_same_state([model.module for model in models], optimizers)


def test_a_step_that_cannot_be_captured_is_taken_as_it_is(monkeypatch):
    def refuse(self, step):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(Traced, "capture", refuse)
    graph, loop, models, optimizers = engines(MODELS["denoising"], OPTIMIZERS["adam"], dataset())
    run_all(graph, schedule())
    run_all(loop, schedule())
    assert_same_state(models, optimizers)
    assert (graph.name, graph.reason) == (
        "loop",
        "the step could not be captured: operation not permitted when stream is capturing",
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_fit_on_a_gpu_replays_a_graph(make):
    data = dataset()
    models = [make().cuda() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].register_forward_hook(lambda *_: None)  # with a hook the ordinary loop runs
    optimizers = [torch.optim.Adam(model.parameters(), 1e-2) for model in models]
    histories = [
        aefast.fit(model, data, optimizer, epochs=3, batch_size=BATCH, seed=4)
        for model, optimizer in zip(models, optimizers, strict=True)
    ]
    assert [history.engine for history in histories] == ["graph", "loop"]
    torch.testing.assert_close(histories[0].losses, histories[1].losses, rtol=1e-4, atol=1e-6)
    assert_same_state(models, optimizers)


def test_a_loss_that_is_not_finite_leaves_model_and_optimizer_as_before_it():
    values = torch.rand(ROWS, WIDTH, generator=torch.manual_seed(5))
    values[int(schedule().order[BATCH * 2])] = torch.inf
    data = TensorRows(values)
    graph, loop, models, optimizers = engines(MODELS["plain"], OPTIMIZERS["adam"], data)
    losses = graph.run(schedule(), 0.05)
    losses += graph.run(schedule().after(len(losses)), 10.0)
    expected = loop.run(schedule(), 10.0)
    assert len(losses) == len(expected) == 3
    assert not torch.tensor(losses[-1]).isfinite()
    assert_same_state(models, optimizers)


def test_a_loss_that_is_not_finite_leaves_chains_as_before_it():
    """They move whatever the rows are. The third step's row is infinite; the loop takes two."""
    values = torch.rand(ROWS, WIDTH, generator=torch.manual_seed(5))
    values[int(schedule().order[BATCH * 2])] = torch.inf
    graph, loop, models, _ = engines(
        lambda: nn.RBM(WIDTH, 5, chains=7, visible_kind="gaussian"),
        OPTIMIZERS["adam"],
        TensorRows(values),
    )
    losses = graph.run(schedule(), 10.0)
    losses += graph.run(schedule().after(len(losses)), 10.0)
    assert [math.isfinite(loss) for loss in losses] == [True, True, False]
    for taken in range(2):
        loop.run(schedule().after(taken), 0.0)
    torch.testing.assert_close(models[0].chain, models[1].chain)
