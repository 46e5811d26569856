"""A module whose ``forward`` is a model's loss."""

import torch
from torch import Tensor, fx, nn

from aefast.nn.trainable import has_loss


class LossModule(nn.Module):
    """A model whose call is its loss, for whatever wraps a module and works on its ``forward``:
    DistributedDataParallel, FSDP, Lightning, Accelerate.

    These average gradients, or gather sharded parameters, around a ``forward``. The
    ``forward`` of a model is its reconstruction or its features; this one's is what training
    minimizes.

    In its state dict the model's names begin with ``model.``; ``step.model.state_dict()`` has
    those that the model has by itself.

    Args:
        model: a model of ``aefast.nn``, or another module with a method ``loss``.

    Attributes:
        model: the same.

    Raises:
        TypeError: the model has no such method.

    >>> import torch
    >>> from aefast.nn import DenoisingAutoencoder, LossModule
    >>> step = LossModule(DenoisingAutoencoder(64, 32))
    >>> step(torch.rand(5, 64), seed=0).backward()
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not has_loss(model):
            raise TypeError(
                f"model is a {type(model).__name__}; it takes a module with a method "
                "loss(x, seed=...)"
            )
        self.model = model

    def forward(
        self,
        x: Tensor,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        row_offset: int = 0,
        *,
        target: Tensor | None = None,
    ) -> Tensor:
        """The model's loss of x ``[..., D]``, a scalar; the arguments are those of its ``loss``.

        Processes that share a batch pass the same ``seed``, and as ``row_offset`` the number of
        their first row: then they draw what one process would.

        Args:
            target: what a transcoder's output is compared with, ``[..., O]``; None for all other
                models.

        Raises:
            TypeError: there is a target, and the model's ``loss`` takes none.
            ValueError, TypeError: as the model's ``loss``.
        """
        # torch.fx traces an argument that is left out as a Proxy; the loss says what it takes.
        is_absent = target is None or isinstance(target, fx.Proxy)
        options = {} if is_absent else {"target": target}
        draws = {"seed": seed, "generator": generator, "row_offset": row_offset}
        loss: Tensor = self.model.loss(x, **draws, **options)  # type: ignore[operator]
        return loss
