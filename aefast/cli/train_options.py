"""The options of ``aefast train``: the type of each, its range and its line of help."""

from pathlib import Path
from typing import Annotated

import typer

from aefast.random import SEED_LIMIT

LARGEST = 2**31 - 1

Model = Annotated[
    str | None,
    typer.Argument(
        help="ae, dae, cae, sae, stochastic, vae, rbm, dbn, topk, batchtopk, "
        "jumprelu, gated or matryoshka."
    ),
]
Out = Annotated[Path, typer.Option(help="The run's folder.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out, with its options.")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="digits, or a .npy, .npz, .csv, .tsv or IDX file, or a folder of images or of "
        ".safetensors and .npy shards. How each is read is one table: python -m pydoc "
        "aefast.data."
    ),
]
Targets = Annotated[
    str | None,
    typer.Option(
        help="topk and its kin: as --data, with as many rows: what a transcoder learns of each."
    ),
]

# Sizes.
Hidden = Annotated[
    str | None,
    typer.Option(
        help="Units of the hidden layers, from the data up: 512,256,30. 128; of a vae 128,16; "
        "of a dbn 128,64."
    ),
]
Latents = Annotated[
    int | None,
    typer.Option(min=1, max=LARGEST, help="topk and its kin, the last five: as --hidden; 16384."),
]

# The training.
Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Passes over the data, of a dbn for each machine; 100."),
]
BatchSize = Annotated[int | None, typer.Option(min=1, max=LARGEST, help="Rows a step; 128.")]
LearningRate = Annotated[
    float | None,
    typer.Option(help="Of Adam, 0.003, of topk and its kin 0.0003; of an rbm or dbn, 0.1."),
]
LearningRateDecay = Annotated[
    float | None, typer.Option(help="What it is multiplied by after each epoch; 1.")
]
Validation = Annotated[
    float | None, typer.Option(help="The share of the rows to hold out, such as 0.1; none.")
]
Patience = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=LARGEST,
        help="End after so many epochs without a better held-out loss; of an rbm or dbn, "
        "pseudo-likelihood, or of gaussian units reconstruction error. The best epoch's model is "
        "kept.",
    ),
]

# Where, and how exactly.
Device = Annotated[str | None, typer.Option(help="cpu or cuda.")]
Backend = Annotated[
    str | None,
    typer.Option(help="Of several ranks: gloo or nccl; gloo on a cpu, nccl on cuda."),
]
Precision = Annotated[
    str | None, typer.Option(help="Of float32 products: highest, high or medium.")
]
Seed = Annotated[int | None, typer.Option(min=0, max=SEED_LIMIT - 1)]

# Several models.
Activation = Annotated[str | None, typer.Option(help="Of the hidden layers.")]
CodeActivation = Annotated[str | None, typer.Option(help="Of the code.")]
OutputActivation = Annotated[
    str | None, typer.Option(help="Of the last layer; sigmoid for data in [0, 1].")
]
Tied = Annotated[
    bool | None, typer.Option("--tied", help="The decoder takes the encoder's weights.")
]
CodeDropout = Annotated[float | None, typer.Option(help="Of the code's elements.")]
Reconstruction = Annotated[str | None, typer.Option(help="The reconstruction's error: mse or bce.")]
Loss = Annotated[str | None, typer.Option(hidden=True, help="The old name of --reconstruction.")]

# One kind of model, which the help names first.
Corruption = Annotated[str | None, typer.Option(help="dae: masking, salt_and_pepper or gaussian.")]
CorruptionLevel = Annotated[float | None, typer.Option(help="dae.")]
Contraction = Annotated[float | None, typer.Option(help="cae: the penalty's factor.")]
Penalty = Annotated[str | None, typer.Option(help="sae: kl or l1.")]
SparsityWeight = Annotated[
    float | None, typer.Option(help="sae, rbm, jumprelu, gated: the penalty's factor.")
]
SparsityTarget = Annotated[float | None, typer.Option(help="sae, rbm: the units' mean activity.")]
CodeNoise = Annotated[float | None, typer.Option(help="stochastic: the code's standard deviation.")]
DecoderKind = Annotated[str | None, typer.Option(help="stochastic, vae: bernoulli or gaussian.")]
Variance = Annotated[str | None, typer.Option(help="vae, gaussian: shared or units, one each.")]
Bound = Annotated[str | None, typer.Option(help="vae: elbo or importance.")]
Samples = Annotated[int | None, typer.Option(min=1, help="vae: codes drawn a row.")]
KlWeight = Annotated[float | None, typer.Option(help="vae: the divergence's factor; 1.")]
KlWarmUp = Annotated[
    int | None,
    typer.Option(min=0, max=LARGEST, help="vae: epochs in which it grows from 0."),
]
VisibleKind = Annotated[str | None, typer.Option(help="rbm, dbn: bernoulli or gaussian.")]
LearnVariance = Annotated[
    bool | None, typer.Option("--learn-variance", help="rbm, dbn: of gaussian units.")
]
K = Annotated[
    int | None,
    typer.Option(
        min=1, help="rbm, dbn: Gibbs steps a step; topk, batchtopk, matryoshka: active latents."
    ),
]
Chains = Annotated[int | None, typer.Option(min=0, help="rbm, dbn: persistent ones.")]
AuxK = Annotated[
    int | None,
    typer.Option(min=0, max=LARGEST, help="topk and kin: dead latents that learn what is left."),
]
DeadAfter = Annotated[
    int | None, typer.Option(min=0, help="topk and kin: tokens without a part; ten million.")
]
Bandwidth = Annotated[float | None, typer.Option(help="jumprelu: of the estimated gradient; 0.05.")]
Prefixes = Annotated[
    str | None, typer.Option(help="matryoshka: latents that reconstruct alone: 1024,16384.")
]
NormalizeActivations = Annotated[
    str | None,
    typer.Option(
        help="topk and kin: the rows' scale: none, expected_average_only_in, "
        "unit_mean_squared_norm, constant_norm_rescale or layer_norm."
    ),
]
RescaleActsByDecoderNorm = Annotated[
    bool | None,
    typer.Option(
        "--rescale-acts-by-decoder-norm", help="topk: select by the part in the reconstruction."
    ),
]
