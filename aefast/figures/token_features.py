"""A sparse autoencoder over a language model's token embeddings: the tokens of its latents."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

import aefast
from aefast.nn import TopKSparseAutoencoder
from aefast.nn.initialization import initialized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "The tokens that excite latents of a language model's embeddings"
SIZE = (11, 6.5)
LATENTS, ACTIVE, EPOCHS = 1024, 16, 8
TOKENS, SHOWN = 8, 20


@dataclass(frozen=True)
class Measured:
    """How alike a latent's tokens are, and the latents whose tokens are most alike."""

    alike: float  # mean cosine of two of the tokens that excite a latent most, over all latents
    random: float  # of any two tokens
    unexplained: float  # share of the embeddings' variance
    shown: list[tuple[float, list[str]]]  # that cosine of one latent, and its tokens


def measure() -> Measured:
    embeddings, names = load_embeddings()
    rows = embeddings / embeddings.square().mean().sqrt()
    return examine(trained(rows), rows, names)


def load_embeddings() -> tuple[Tensor, list[str]]:
    """The token embeddings ``[32000, 256]`` of the package wordllama, and the tokens.

    Raises:
        ModuleNotFoundError: one of the packages is missing: ``pip install wordllama safetensors``.
    """
    spec = importlib.util.find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("wordllama is missing: pip install wordllama", name="wordllama")
    from safetensors.torch import load_file

    folder = Path(spec.origin).parent
    tensors = load_file(folder / "weights" / "l2_supercat_256.safetensors")
    tokenizer = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
    numbers = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    # The mark of a token that begins a word.
    names = [name.replace("\u2581", "_") for name in sorted(numbers, key=numbers.__getitem__)]
    return tensors["embedding.weight"].float(), names


def trained(rows: Tensor) -> TopKSparseAutoencoder:
    def make() -> TopKSparseAutoencoder:
        return TopKSparseAutoencoder(
            rows.shape[1], LATENTS, ACTIVE, aux_k=64, dead_after=2 * len(rows)
        )

    model = initialized(make, seed=0)
    model.start_from(rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    model.keep_unit_norm(optimizer)
    aefast.fit(model, rows, optimizer, epochs=EPOCHS, batch_size=1000, seed=0)
    return model.eval()


@torch.no_grad()
def examine(model: TopKSparseAutoencoder, rows: Tensor, names: list[str]) -> Measured:
    code = model.encode_dense(rows)
    centered = rows - rows.mean(0)
    unexplained = (model.decode(code) - rows).square().sum() / centered.square().sum()
    strongest = code.topk(TOKENS, dim=0).indices.t()
    directions = F.normalize(centered, dim=1)
    cosines = mean_cosine(directions[strongest])
    alike = cosines[(code > 0).sum(0) >= TOKENS]
    best = cosines.topk(SHOWN)
    shown = [
        (cosine, [names[token] for token in strongest[latent].tolist()])
        for cosine, latent in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return Measured(alike.mean().item(), mean_cosine(directions).item(), unexplained.item(), shown)


def mean_cosine(directions: Tensor) -> Tensor:
    """The mean cosine of two different ones of the N unit vectors ``[..., N, D]``."""
    count = directions.shape[-2]
    return (directions.sum(-2).square().sum(-1) - count) / (count * (count - 1))


def sentence(measured: Measured) -> str:
    return (
        f"Two of the {TOKENS} tokens that excite a latent most have a cosine of "
        f"{measured.alike:.2f} on the average, two tokens at random {measured.random:.2f}: "
        f"top-k with {LATENTS} latents, {ACTIVE} of them active, on the embeddings of wordllama, "
        f"of whose variance it leaves {measured.unexplained:.0%}. Shown are the {SHOWN} latents "
        "whose tokens are most alike."
    )


def plot(measured: Measured, figure: "Figure") -> None:
    axes = figure.subplots()
    axes.barh(range(SHOWN), [cosine for cosine, _ in measured.shown], color="tab:red", alpha=0.5)
    for row, (_, tokens) in enumerate(measured.shown):
        # A dollar sign would begin a formula.
        text = "  ".join(tokens).replace("$", r"\$")
        axes.text(0.01, row, text, va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.set(xlim=(0, 1), xlabel="mean cosine of a latent's tokens", ylabel="latents")
