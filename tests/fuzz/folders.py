"""Folders of several files, of which one is changed: each is read, or refused in one line.

They are shards, runs to go on with, and sparse autoencoders as other packages lay them.
"""

import copy
import json
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st

import aefast
from aefast import data, nn
from aefast.messages import OneLineError
from aefast.training import checkpoint, loop, models, run
from aefast.training.checkpoint import Checkpoint
from aefast.training.config import RunProgress
from aefast.training.engines import DivergenceError
from tests.fuzz.files import CHANGES, change, check_message, in_time, npy
from tests.training import runs

Contents = dict[str, bytes]

SHARD = np.arange(12.0, dtype=np.float32).reshape(4, 3) / 12


def shards() -> Contents:
    rows = torch.from_numpy(SHARD)
    whole = {"rows": rows.to(torch.bfloat16).reshape(2, 2, 3), "labels": rows[:, 0].clone()}
    return {
        "a.safetensors": safetensors.torch.save({"rows": rows}, {"made": "here"}),
        "b.npy": npy(SHARD.astype(np.float16)),
        "more/c.safetensors": safetensors.torch.save(whole),
    }


def dictionary(model: Callable[[], nn.SparseDictionary], save: Callable[..., None]) -> Contents:
    """The folder that a package's model is saved as."""
    with tempfile.TemporaryDirectory() as folder:
        save(model(), Path(folder) / "model")
        return contents(Path(folder) / "model")


def trained(model: str, **options: Any) -> Contents:
    """A run that was stopped in its second epoch, and its data."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        np.save(path / "rows.npy", runs.rows())
        dataset = data.load(path / "rows.npy")
        settings = {"batch_size": 8, "epochs": 3, **runs.SMALL[model], **options, "model": model}
        config = run.configure(settings, dataset)
        begin = Checkpoint(config, RunProgress(), models.build(config), {})
        trainer = loop.Trainer(begin, dataset)
        runs.proceed(trainer, until=9)
        checkpoint.save(path, trainer.checkpoint())
        return contents(path)


def contents(folder: Path) -> Contents:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


FOLDERS: dict[str, Callable[[], Contents]] = {
    "shards": shards,
    "sparsify": partial(
        dictionary, partial(nn.TopKSparseAutoencoder, 4, 9, 2), aefast.save_sparsify
    ),
    **{
        f"saelens {model.__name__}": partial(
            dictionary, partial(model, 4, 9, *more), aefast.save_saelens
        )
        for model, more in (
            (nn.TopKSparseAutoencoder, (2,)),
            (nn.JumpReLUSparseAutoencoder, ()),
            (nn.GatedSparseAutoencoder, ()),
        )
    },
    **{f"run {model}": partial(trained, model) for model in runs.SMALL},
    "run ae with patience": partial(trained, "ae", validation=0.2, patience=1),
}


@cache
def sample(kind: str) -> Contents:
    return FOLDERS[kind]()


# What a person, or another program, writes into a setting.
SETTINGS: list[Any] = [0, 1, -1, 2, 3, 0.5, 1e-30, 1e30, 1e308, 2**31, 2**63, -(2**70), 10**400]
SETTINGS += [True, False, None, "", "x", "nan", "adam", "F32", "\x1b[2J\n", "a" * 5000]
SETTINGS += [[], {}, [1], [0, 0], [2**40, 2**40], {"": None}, float("nan"), float("inf")]


@dataclass(frozen=True)
class Changed:
    """A folder, the file in it that is changed, and how: in its bytes, or in its JSON. A value of
    None for the edit leaves the entry out."""

    kind: str
    file: str
    changes: tuple[tuple[str, float, bytes | int], ...] = ()
    edits: tuple[tuple[float, tuple[Any, ...]], ...] = ()

    def content(self) -> bytes:
        content = sample(self.kind)[self.file]
        if self.edits:
            content = edited(content, self.file, self.edits)
        for what, where, value in self.changes:
            content = change(content, what, int(where * len(content)), value)
        return content


def edited(content: bytes, file: str, edits: tuple[tuple[float, tuple[Any, ...]], ...]) -> bytes:
    """A JSON, or a safetensors file's header and what JSON lies in it, with other entries."""
    if file.endswith(".json"):
        return json.dumps(with_edits(json.loads(content), edits)).encode()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    if checkpoint.KEY in metadata:
        metadata[checkpoint.KEY] = with_edits(json.loads(metadata[checkpoint.KEY]), edits)
        metadata[checkpoint.KEY] = json.dumps(metadata[checkpoint.KEY])
    else:
        header = with_edits(header, edits)
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + content[8 + length :]


def with_edits(tree: Any, edits: tuple[tuple[float, tuple[Any, ...]], ...]) -> Any:
    for where, value in edits:
        places = list(entries(tree))
        if places:
            parent, key = places[int(where * len(places)) % len(places)]
            if value:
                parent[key] = copy.deepcopy(value[0])
            else:
                del parent[key]
    return tree


def entries(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each entry of objects and lists, at any depth: what it is in, and its key or number."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield tree, key
            yield from entries(value)


EDITS = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.tuples(st.sampled_from(SETTINGS)), st.tuples(st.integers(0, 40)), st.just(())),
)


@st.composite
def folders(draw: Any) -> Changed:
    kind = draw(st.sampled_from(list(FOLDERS)))
    file = draw(st.sampled_from(list(sample(kind))))
    has_json = file.endswith((".json", ".safetensors"))
    if has_json and draw(st.booleans()):
        return Changed(kind, file, edits=tuple(draw(st.lists(EDITS, min_size=1, max_size=3))))
    return Changed(kind, file, tuple(draw(st.lists(CHANGES, min_size=1, max_size=4))))


def check(folder: Changed) -> None:
    """Read the folder, and use what is read; raises AssertionError unless that works or is refused
    in one line."""
    with tempfile.TemporaryDirectory() as place, in_time():
        path = Path(place)
        for name, content in sample(folder.kind).items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_bytes(folder.content() if name == folder.file else content)
        try:
            READERS[folder.kind.partition(" ")[0]](path)
        except (OneLineError, DivergenceError) as error:
            check_message(str(error))


def read_shards(path: Path) -> None:
    dataset = data.load(path)
    rows = dataset.take(torch.arange(len(dataset)))
    assert rows.shape == (len(dataset), dataset.rows.shape[1])
    assert rows.isfinite().all(), "rows that are not finite"


def read_dictionary(load: Callable[[Path], nn.SparseDictionary], path: Path) -> None:
    model = load(path)
    x = torch.rand(3, model.visible)
    assert model(x.to(model.encoder_weight)).shape == x.shape


def go_on(path: Path) -> None:
    trainer = run.resume(path, {"data": str(path / "rows.npy"), "device": "cpu"})
    if not trainer.is_finished and trainer.steps_left < 10**6:
        runs.proceed(trainer, until=trainer.progress.step + 2)


READERS: dict[str, Callable[[Path], None]] = {
    "shards": read_shards,
    "sparsify": partial(read_dictionary, aefast.load_sparsify),
    "saelens": partial(read_dictionary, aefast.load_saelens),
    "run": go_on,
}
