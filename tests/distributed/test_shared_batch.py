"""Loops of a user's own: a batch that ranks share is one process's."""

import pytest
import torch

from tests.distributed import sharing, worlds


def test_models_inside_the_wrapper_are_one_process_s():
    """Selected and dead latents, thresholds, chains, mean activities and all."""
    one = sharing.trained_of_all()
    for rank in worlds.run(2, sharing.trained_of_all):
        for name, state in one.items():
            for key, expected in state.items():
                is_state = key in ("idle", "training_steps") or (
                    key == "chain" and name != "rbm gaussian"
                )
                tolerance = 0 if is_state else 1e-6
                torch.testing.assert_close(
                    rank[name][key], expected, rtol=0, atol=tolerance, msg=f"{name} {key}"
                )


def test_ranks_of_any_number_of_rows_share_a_batch():
    ranks = worlds.run(3, sharing.losses, [7, 0, 4])
    (whole,) = worlds.run(1, sharing.losses, [11])
    for number, (loss, active, idle) in enumerate(whole):
        parts = [rank[number] for rank in ranks]
        assert parts[0][0] + parts[2][0] == pytest.approx(loss, rel=1e-6)
        assert sum(part[1] for part in parts) == active
        assert all(torch.equal(part[2], idle) for part in parts)


def test_a_loss_of_one_rank_s_rows_warns_and_what_no_graph_holds_is_refused():
    for results in worlds.run(2, sharing.warned_and_refused):
        (warning,) = results.pop("nothing")
        assert warning.startswith("a loss selects latents among the rows of this process, one of 2")
        (checkpointed,) = results.pop("checkpointed")
        for case in ("compiled", "compiled penalty", "compiled chains"):
            (compiled,) = results.pop(case)
            assert "which no graph holds" in compiled
        assert "which torch.utils.checkpoint would do twice" in checkpointed
        assert not any(results.values()), results
