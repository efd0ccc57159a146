"""FedProx (Li et al. 2020): local training is pulled back towards the global model by mu / 2 ||w - w_global||^2.

The term depends on no record, so it is added after clipping and noise and costs no privacy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["Proximal"]


class Proximal:
    """The pull towards the parameters' values at the time of construction.

    :param parameters: trainable parameters, holding the global model.
    :param weight: mu >= 0.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weight: float) -> None:
        self._weight = weight
        self._anchored = [(p, p.detach().clone()) for p in parameters] if weight else []

    def add(self) -> None:
        """Add mu (w - w_global) to each gradient."""
        with torch.no_grad():
            for parameter, anchor in self._anchored:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - anchor, alpha=self._weight)
