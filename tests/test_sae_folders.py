"""Folders of SAELens and of sparsify: numbers bit for bit, in the real packages where they are."""

import json
import os
import struct

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file

import aefast
from aefast.nn import (
    BatchTopKSparseAutoencoder,
    GatedSparseAutoencoder,
    JumpReLUSparseAutoencoder,
    MatryoshkaSparseAutoencoder,
    SparseAutoencoder,
    TopKSparseAutoencoder,
)
from aefast.sae_folders import FolderError

# A batch top-k model is saved as a JumpReLU one: both codes have one bit pattern where one product
# serves both.
pytestmark = pytest.mark.usefixtures("our_product")

D, L, K = 6, 20, 3

MODELS = {
    "topk": lambda **options: TopKSparseAutoencoder(D, L, K, **options),
    "batchtopk": lambda **options: BatchTopKSparseAutoencoder(D, L, K, **options),
    "matryoshka": lambda **options: MatryoshkaSparseAutoencoder(D, L, K, **options),
    "jumprelu": lambda **options: JumpReLUSparseAutoencoder(D, L, **options),
    "gated": lambda **options: GatedSparseAutoencoder(D, L, **options),
}


def trained(name, **options):
    """A model whose parameters are no start's."""
    model = MODELS[name](**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        if hasattr(model, "threshold"):
            model.threshold.fill_(0.25)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_a_saelens_folder_has_the_models_numbers(name, dtype, tmp_path):
    model, x = trained(name, dtype=dtype), torch.randn(7, D, dtype=dtype)
    aefast.save_saelens(model, tmp_path / "sae")
    loaded = aefast.load_saelens(tmp_path / "sae")
    assert not loaded.training
    expected = model.state_dict()
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[key].expand_as(tensor).to(tensor.dtype))
    assert torch.equal(loaded.encode_dense(x), model.encode_dense(x))
    assert len([*loaded.buffers()]) == 1
    loaded.train().loss(x).backward()
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["architecture"] == (name if name in ("topk", "gated") else "jumprelu")


@pytest.mark.parametrize("name", ["jumprelu", "batchtopk"])
def test_a_threshold_below_zero_is_saved_and_loaded_as_zero(name, tmp_path):
    """SAELens' own training leaves them so, too, after its last step."""
    model, x = trained(name), torch.randn(7, D)
    with torch.no_grad():
        model.threshold.fill_(-0.25)
    aefast.save_saelens(model, tmp_path)
    file = tmp_path / "sae_weights.safetensors"
    tensors = load_file(file)
    assert not tensors["threshold"].any()
    save_file(tensors | {"threshold": torch.full((L,), -0.25)}, file)
    loaded = aefast.load_saelens(tmp_path)
    assert not loaded.threshold.any()
    assert torch.equal(loaded.encode_dense(x), model.encode_dense(x))


def test_a_sparsify_folder_has_the_models_numbers(tmp_path):
    model = trained("topk")
    aefast.save_sparsify(model, tmp_path)
    loaded = aefast.load_sparsify(tmp_path)
    assert loaded.k == K
    for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("save", "load"),
    [
        (aefast.save_saelens, aefast.load_saelens),
        (aefast.save_sparsify, aefast.load_sparsify),
    ],
)
def test_norms_that_latents_are_selected_by_are_saved_in_the_encoder(save, load, tmp_path):
    model, x = trained("topk"), torch.randn(7, D)
    model.rescale_acts_by_decoder_norm = True
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert not loaded.rescale_acts_by_decoder_norm
    torch.testing.assert_close(loaded.decoder_weight.norm(dim=1), torch.ones(L))
    torch.testing.assert_close(loaded(x), model(x))


@pytest.mark.parametrize("name", ["topk", "gated", "jumprelu"])
def test_inputs_that_are_not_centered_and_ranks_by_norm_are_brought_to_one_form(name, tmp_path):
    model = trained(name)
    aefast.save_saelens(model, tmp_path)
    change_config(tmp_path, apply_b_dec_to_input=False)
    if name == "topk":
        change_config(tmp_path, rescale_acts_by_decoder_norm=True)
    norms = model.decoder_weight.norm(dim=1)
    x = torch.randn(7, D)
    actual = aefast.load_saelens(tmp_path)
    plain = x + model.decoder_bias  # so that what the model subtracts is nothing
    code = model.encode_dense(plain)
    if name == "topk":
        z = torch.nn.functional.linear(x, model.encoder_weight, model.encoder_bias) * norms
        largest = z.topk(K)
        code = torch.zeros_like(z).scatter(
            1, largest.indices, largest.values.relu() / norms[largest.indices]
        )
        torch.testing.assert_close(actual(x), model.decode(code))
    else:
        torch.testing.assert_close(actual.encode_dense(x), code)


@pytest.mark.parametrize(
    ("settings", "value"),
    [({"rescale_acts_by_decoder_norm": True}, 0.0), ({"apply_b_dec_to_input": False}, 3e38)],
)
def test_settings_that_leave_no_finite_model_are_refused(settings, value, tmp_path):
    model = trained("topk")
    with torch.no_grad():
        model.decoder_weight[2] = value if value == 0 else 1.0
        model.decoder_bias.fill_(value)
        model.encoder_weight.fill_(3.0)
    aefast.save_saelens(model, tmp_path)
    change_config(tmp_path, **settings)
    with pytest.raises(FolderError, match=r"coder_.* infinite or NaN, as a latent's direction of"):
        aefast.load_saelens(tmp_path)


@pytest.mark.parametrize("normalization", ["constant_norm_rescale", "layer_norm"])
@pytest.mark.parametrize("name", MODELS)
def test_a_normalization_of_each_row_is_kept(name, normalization, tmp_path):
    model, x = trained(name, normalize_activations=normalization), 3 * torch.randn(7, D) + 1
    aefast.save_saelens(model, tmp_path)
    loaded = aefast.load_saelens(tmp_path)
    assert loaded.normalize_activations == normalization
    assert torch.equal(loaded.encode_dense(x), model.encode_dense(x))
    torch.testing.assert_close(loaded(x), model(x))
    with pytest.raises(ValueError, match=f"normalize_activations='{normalization}'; sparsify norm"):
        aefast.save_sparsify(trained("topk", normalize_activations=normalization), tmp_path)


@pytest.mark.parametrize("normalization", ["expected_average_only_in", "unit_mean_squared_norm"])
@pytest.mark.parametrize("name", MODELS)
def test_one_scale_of_all_rows_is_saved_in_the_parameters(name, normalization, tmp_path):
    model, x = trained(name, normalize_activations=normalization), 3 * torch.randn(7, D) + 1
    pairs = [(aefast.save_saelens, aefast.load_saelens)]
    pairs += [(aefast.save_sparsify, aefast.load_sparsify)] * (name == "topk")
    for number, (save, load) in enumerate(pairs):
        if number == 0:
            with pytest.raises(ValueError, match="the rows' scale was not measured"):
                save(model, tmp_path / "none")
            assert not (tmp_path / "none").exists()
            model.start_from(x)
        save(model, tmp_path / str(number))
        loaded = load(tmp_path / str(number))
        assert loaded.normalize_activations == "none"
        torch.testing.assert_close(loaded.encode_dense(x), model.encode_dense(x))
        torch.testing.assert_close(loaded(x), model(x))


def test_a_checkpoints_scale_is_read(tmp_path):
    model, x = trained("topk"), torch.randn(7, D)
    aefast.save_saelens(model, tmp_path)
    change_config(tmp_path, normalize_activations="expected_average_only_in")
    scaler = tmp_path / "activation_scaler.json"
    scaler.write_text(json.dumps({"scaling_factor": 0.5, "has_whitening": False}))
    torch.testing.assert_close(aefast.load_saelens(tmp_path)(x), 2 * model(0.5 * x))
    for wrong in (None, 0, "1", True):
        scaler.write_text(json.dumps({"scaling_factor": wrong}))
        with pytest.raises(FolderError, match=r"activation_scaler.json: scaling_factor is .*; it"):
            aefast.load_saelens(tmp_path)


def test_a_checkpoint_of_our_own_class_in_saelens_is_topk(tmp_path):
    model = trained("topk")
    aefast.save_saelens(model, tmp_path)
    change_config(tmp_path, architecture="aefast_topk")
    loaded = aefast.load_saelens(tmp_path)
    assert isinstance(loaded, TopKSparseAutoencoder)
    assert torch.equal(loaded.encoder_weight, model.encoder_weight)


def change_config(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | changes))


def test_nothing_is_overwritten(tmp_path):
    for save in (aefast.save_saelens, aefast.save_sparsify):
        save(trained("topk"), tmp_path / save.__name__)
        before = {p.name: p.read_bytes() for p in (tmp_path / save.__name__).iterdir()}
        with pytest.raises(FolderError, match="is there already"):
            save(trained("topk"), tmp_path / save.__name__)
        assert {p.name: p.read_bytes() for p in (tmp_path / save.__name__).iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architecture": "standard"},
            "architecture is 'standard'; it takes topk, jumprelu or gated",
        ),
        ({"architecture": ["topk"]}, "architecture is"),
        (
            {"normalize_activations": "covariance_whitening"},
            "normalize_activations is 'covariance_whitening'; it takes none, expected_average_only",
        ),
        ({"normalize_activations": "expected_average_only_in"}, "activation_scaler.json cannot be"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
        ({"k": L + 1}, "k is 21, above its 20 latents"),
        ({"k": 0}, "k is 0; it takes a size"),
        ({"d_sae": 10**9}, "W_enc has shape"),
        ({"d_in": "6"}, "d_in is '6'; it takes a size"),
        (
            {"rescale_acts_by_decoder_norm": "false"},
            "rescale_acts_by_decoder_norm is 'false'; it takes true or false",
        ),
        ({"apply_b_dec_to_input": 0}, "apply_b_dec_to_input is 0; it takes true or false"),
    ],
)
def test_a_saelens_folder_of_another_kind_is_one_line(change, message, tmp_path):
    aefast.save_saelens(trained("topk"), tmp_path)
    change_config(tmp_path, **change)
    with pytest.raises(FolderError) as caught:
        aefast.load_saelens(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax'; it takes"),
        ({"transcode": True}, "transcode is True; it takes false"),
        ({"skip_connection": True}, "skip_connection is True"),
        ({"num_latents": 0, "expansion_factor": 2}, "encoder.weight has shape"),
    ],
)
def test_a_sparsify_folder_of_another_kind_is_one_line(change, message, tmp_path):
    aefast.save_sparsify(trained("topk"), tmp_path)
    change_config(tmp_path, **change)
    with pytest.raises(FolderError, match=r"cfg\.json|sae\.safetensors") as caught:
        aefast.load_sparsify(tmp_path)
    assert message in str(caught.value)


def write_holes(file):
    """A tensor that is larger than memory, of a file that takes a kilobyte on disk."""
    entry = {"dtype": "F32", "shape": [2**41], "data_offsets": [0, 2**43]}
    header = json.dumps({"W_dec": entry}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    try:
        os.truncate(file, 8 + len(header) + 2**43)
    except OSError:
        pytest.skip("this file system has no file so large")


DAMAGES = ["no folder", "no weights", "cut", "no JSON", "a list", "tensors", "a pipe", "NaN"]


@pytest.mark.parametrize("kind", [*DAMAGES, "float8", "holes"])
def test_a_damaged_folder_is_one_line(kind, tmp_path):
    for save, load, name in (
        (aefast.save_saelens, aefast.load_saelens, "sae_weights.safetensors"),
        (aefast.save_sparsify, aefast.load_sparsify, "sae.safetensors"),
    ):
        folder = tmp_path / name
        save(trained("topk"), folder)
        weights = folder / name
        if kind == "no folder":
            folder = tmp_path / "missing"
        elif kind == "no weights":
            weights.unlink()
        elif kind == "cut":
            os.truncate(weights, 200)
        elif kind == "tensors":
            save_file({**load_file(weights), "W_skip": torch.ones(2)}, weights)
        elif kind == "NaN":
            save_file({**load_file(weights), "W_dec": torch.full((L, D), torch.nan)}, weights)
        elif kind == "float8":
            narrow = {n: t.to(torch.float8_e4m3fn) for n, t in load_file(weights).items()}
            save_file(narrow, weights)
        elif kind == "a pipe":
            (folder / "cfg.json").unlink()
            os.mkfifo(folder / "cfg.json")
        elif kind == "holes":
            write_holes(weights)
        else:
            (folder / "cfg.json").write_text("{" if kind == "no JSON" else "[]")
        with pytest.raises(FolderError) as caught:
            load(folder)
        assert "\n" not in str(caught.value)


def test_a_model_of_another_kind_is_named(tmp_path):
    with pytest.raises(TypeError, match="model is a BatchTopKSparseAutoencoder; it takes a TopK"):
        aefast.save_sparsify(trained("batchtopk"), tmp_path)
    with pytest.raises(TypeError, match="model is a SparseAutoencoder; it takes a sparse dict"):
        aefast.save_saelens(SparseAutoencoder(6, 4), tmp_path)


# ------------------------------------------------------------------------------ the real packages


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_saelens_reads_what_is_written_and_writes_the_same_bytes(name, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not here: aefast[sae]")
    model, x = trained(name), torch.randn(50, D)
    aefast.save_saelens(model, tmp_path / "ours")
    peer = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    torch.testing.assert_close(peer.encode(x), model.encode_dense(x))
    torch.testing.assert_close(peer(x), model(x))
    peer.save_model(tmp_path / "theirs")
    file = "sae_weights.safetensors"
    assert (tmp_path / "theirs" / file).read_bytes() == (tmp_path / "ours" / file).read_bytes()
    configs = [json.loads((tmp_path / f / "cfg.json").read_text()) for f in ("ours", "theirs")]
    assert configs[0] == configs[1]


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["constant_norm_rescale", "layer_norm"])
@pytest.mark.parametrize("name", MODELS)
def test_saelens_normalizes_as_we_do(name, normalization, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not here: aefast[sae]")
    model, x = trained(name, normalize_activations=normalization), 3 * torch.randn(50, D) + 1
    aefast.save_saelens(model, tmp_path / "ours")
    peer = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    torch.testing.assert_close(peer.encode(x), model.encode_dense(x))
    torch.testing.assert_close(peer(x), model(x))
    peer.save_model(tmp_path / "theirs")
    configs = [json.loads((tmp_path / f / "cfg.json").read_text()) for f in ("ours", "theirs")]
    assert configs[0] == configs[1]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "gated"])
def test_saelens_folds_the_scale_of_all_rows_as_we_do(architecture, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not here: aefast[sae]")
    from sae_lens.training.activation_scaler import ActivationScaler

    x = 3 * torch.randn(50, D) + 1
    scaler = ActivationScaler()
    scaler.estimate_scaling_factor(D, iter([x]), 1)
    model = trained(architecture, normalize_activations="expected_average_only_in")
    model.start_from(x)
    assert model.input_factor.item() == pytest.approx(scaler.scaling_factor, rel=1e-6)
    aefast.save_saelens(model, tmp_path / "folded")
    file = "sae_weights.safetensors"
    with torch.no_grad():
        model.input_factor.fill_(1)
    aefast.save_saelens(model, tmp_path / "unfolded")
    peer = sae_lens.SAE.load_from_disk(tmp_path / "unfolded")
    peer.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    expected = load_file(tmp_path / "folded" / file)
    for name, tensor in peer.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "gated"])
@pytest.mark.parametrize("centered", [True, False])
def test_what_saelens_writes_is_read(architecture, centered, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not here: aefast[sae]")
    from sae_lens.registry import get_sae_training_class

    kind, settings = get_sae_training_class(architecture)
    more = {"k": K} if "topk" in architecture else {}
    sae = kind(settings(d_in=D, d_sae=L, apply_b_dec_to_input=centered, **more))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.3 * torch.rand_like(parameter)
        if architecture == "batchtopk":
            sae.topk_threshold += 0.5
    sae.save_inference_model(tmp_path)
    peer = sae_lens.SAE.load_from_disk(tmp_path)
    model, x = aefast.load_saelens(tmp_path), torch.randn(50, D)
    torch.testing.assert_close(model(x), peer(x), rtol=1e-4, atol=1e-4)
    if centered and architecture in ("jumprelu", "gated", "batchtopk"):
        assert torch.equal(model.encoder_weight.t(), peer.W_enc)


@pytest.mark.slow
def test_sparsify_reads_what_is_written_and_writes_the_same_bytes(tmp_path):
    sparsify = pytest.importorskip("sparsify", reason="eai-sparsify is not here: aefast[sae]")
    model, x = trained("topk"), torch.randn(50, D)
    aefast.save_sparsify(model, tmp_path / "ours")
    peer = sparsify.SparseCoder.load_from_disk(tmp_path / "ours")
    values, latents, _ = peer.encode(x)
    code = torch.zeros(50, L).scatter(1, latents, values)
    torch.testing.assert_close(code, model.encode_dense(x))
    peer.save_to_disk(tmp_path / "theirs")
    for file in ("sae.safetensors", "cfg.json"):
        assert (tmp_path / "theirs" / file).read_bytes() == (tmp_path / "ours" / file).read_bytes()
