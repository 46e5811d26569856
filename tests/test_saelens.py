"""SAELens' top-k training with this package's kernels, in the real package where it is."""

import pytest
import torch

pytest.importorskip("sae_lens", reason="sae-lens is not here: aefast[sae]")

import sae_lens
from datasets import Dataset
from sae_lens.config import LanguageModelSAERunnerConfig, LoggingConfig, SAETrainerConfig
from sae_lens.llm_sae_training_runner import LanguageModelSAETrainingRunner
from sae_lens.saes.sae import TrainStepInput
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from transformer_lens import HookedTransformer, HookedTransformerConfig

from aefast.saelens import FastTopKTrainingSAE, FastTopKTrainingSAEConfig

pytestmark = pytest.mark.slow

D, L, K = 6, 40, 3


def pair(**options):
    """SAELens' model and ours, of the same parameters, which are no start's."""
    torch.manual_seed(0)
    expected = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=L, k=K, **options))
    actual = FastTopKTrainingSAE(FastTopKTrainingSAEConfig(d_in=D, d_sae=L, k=K, **options))
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    actual.load_state_dict(expected.state_dict())
    return expected, actual


def step(sae, x, dead):
    mask = torch.zeros(L, dtype=torch.bool)
    mask[:dead] = True
    return sae.training_forward_pass(TrainStepInput(x, {}, mask if dead else None, 0, False))


@pytest.mark.parametrize("dead", [0, 2, 20])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rescale_acts_by_decoder_norm": False},
        {"apply_b_dec_to_input": False, "aux_loss_coefficient": 0.3},
        {"normalize_activations": "expected_average_only_in"},
    ],
)
def test_a_step_is_saelens_own(options, dead):
    theirs, ours = pair(**options)
    x = torch.randn(9, D)
    expected, actual = step(theirs, x, dead), step(ours, x, dead)
    torch.testing.assert_close(actual.losses, expected.losses)
    torch.testing.assert_close(actual.sae_out, expected.sae_out)
    torch.testing.assert_close(actual.feature_acts.to_dense(), expected.feature_acts)
    expected.loss.backward()
    actual.loss.backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert ours.W_enc.t().is_contiguous()


def test_a_hook_on_the_pre_activations_sees_them():
    expected, actual = pair()
    x, shapes = torch.randn(9, D), []
    actual.hook_sae_acts_pre.register_forward_hook(
        lambda _, __, output: shapes.append(output.shape)
    )
    torch.testing.assert_close(step(actual, x, 20).loss, step(expected, x, 20).loss)
    assert shapes == [(9, L)]


def test_three_dimensions_are_one_code_a_row():
    expected, actual = pair()
    x = torch.randn(2, 9, D)
    torch.testing.assert_close(
        step(actual, x, 0).feature_acts.to_dense(), step(expected, x, 0).feature_acts
    )


def test_their_trainer_trains_it_and_what_it_saves_loads_as_topk(tmp_path):
    losses = []
    for sae in pair():
        g = torch.Generator().manual_seed(0)
        directions = torch.randn(L, D, generator=g)

        def batches(g=g, directions=directions):
            while True:
                yield (torch.rand(64, L, generator=g) < 0.05).float() @ directions

        config = SAETrainerConfig(
            total_training_samples=64 * 60,
            train_batch_size_samples=64,
            lr=1e-2,
            lr_end=1e-2,
            dead_feature_window=10,
        )
        SAETrainer(sae=sae, data_provider=batches(), cfg=config).fit()
        losses.append(step(sae, next(batches()), 0).loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    sae.save_inference_model(tmp_path)
    loaded = sae_lens.SAE.load_from_disk(tmp_path)
    assert loaded.cfg.architecture() == "topk"
    x = torch.randn(50, D)
    torch.testing.assert_close(loaded(x), sae(x))
    sae.save_model(tmp_path / "training")
    again = sae_lens.TrainingSAE.load_from_disk(tmp_path / "training")
    assert type(again) is FastTopKTrainingSAE
    assert torch.equal(again(x), sae(x))


def transformer():
    """A language model that nothing has to be downloaded for."""
    shape = HookedTransformerConfig(
        n_layers=1, d_model=16, n_ctx=8, d_head=8, d_vocab=50, act_fn="relu", seed=0, device="cpu"
    )
    return HookedTransformer(shape)


def test_their_language_model_runner_trains_it_as_their_own(tmp_path):
    tokens = torch.randint(50, (400, 8), generator=torch.Generator().manual_seed(0))
    saved = []
    for config in (TopKTrainingSAEConfig, FastTopKTrainingSAEConfig):
        settings = LanguageModelSAERunnerConfig(
            sae=config(d_in=16, d_sae=64, k=4),
            hook_name="blocks.0.hook_mlp_out",
            dataset_path="of this test",
            context_size=8,
            prepend_bos=False,
            sequence_separator_token=None,
            store_batch_size_prompts=8,
            n_batches_in_buffer=16,
            training_tokens=64 * 50,
            train_batch_size_tokens=64,
            lr=1e-2,
            dead_feature_window=10,
            n_checkpoints=1,
            checkpoint_path=str(tmp_path / "checkpoints" / config.__name__),
            output_path=str(tmp_path / config.__name__),
            logger=LoggingConfig(log_to_wandb=False),
        )
        torch.manual_seed(0)
        runner = LanguageModelSAETrainingRunner(
            settings, Dataset.from_dict({"tokens": tokens.tolist()}), transformer()
        )
        start = runner.sae.W_dec.detach().clone()
        runner.run()
        assert not torch.equal(runner.sae.W_dec, start)
        saved.append(sae_lens.SAE.load_from_disk(settings.output_path))
    (stopped,) = (tmp_path / "checkpoints" / "FastTopKTrainingSAEConfig").glob("*/*")
    assert type(sae_lens.TrainingSAE.load_from_disk(stopped)) is FastTopKTrainingSAE
    expected, actual = saved
    assert actual.cfg.architecture() == "topk"
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(actual.get_parameter(name), parameter, rtol=1e-3, atol=1e-3)
