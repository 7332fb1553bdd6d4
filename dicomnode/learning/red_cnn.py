"""RED-CNN, the supervised denoiser that others are measured against (Chen et al., IEEE TMI 36, 2017).

Five convolutions of 5 x 5 without padding and their five transposes, ReLU behind each, no pooling; what went
into every second convolution is added to what comes out of its transpose. Written from the paper's
description. Two things differ from it: the last layer starts at zero, so that training starts from the
identity; and nothing is rectified behind the last addition, which would cut off noise below the least HU and
so lift the mean of air.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class RedCnnShape:
    """`widths`: channels behind each convolution, 96 five times in the paper; `kernel`: its side, pixels."""

    widths: tuple[int, ...] = (96,) * 5
    kernel: int = 5

    def build(self) -> "RedCnn":
        """A network of this shape that has learned nothing."""
        return RedCnn(self)

    @property
    def least_side_px(self) -> int:
        """What the convolutions, which have no padding, can work on."""
        return len(self.widths) * (self.kernel - 1) + 1


class RedCnn(nn.Module):
    """Slices [n, 1, y, x] in, denoised slices in the same unit out; sides may be any size."""

    def __init__(self, shape: RedCnnShape) -> None:
        super().__init__()
        self.shape = shape
        widths = (1, *shape.widths)
        self.encode = nn.ModuleList(nn.Conv2d(a, b, shape.kernel) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(
            nn.ConvTranspose2d(b, a, shape.kernel) for a, b in reversed(list(pairwise(widths)))
        )
        for layer in self.encode:
            _start(layer, "fan_in")
        for layer in self.decode:  # torch counts what enters a transposed convolution as what leaves it
            _start(layer, "fan_out")
        nn.init.zeros_(self.decode[-1].get_parameter("weight"))

    def forward(self, x: Tensor, conditions: Tensor | None = None) -> Tensor:
        """`conditions` are not looked at: nobody tells this network how noisy a slice is."""
        height, width = x.shape[-2:]
        least = self.shape.least_side_px
        pad = (0, max(0, least - width), 0, max(0, least - height))
        whole = functional.pad(x, pad, mode="replicate")
        correction: Tensor = self._correction(whole)
        # in full precision: sixteen bits have steps of several HU at lung and bone
        return x + correction.float()[..., :height, :width]

    def _correction(self, x: Tensor) -> Tensor:
        skips: list[Tensor | None] = []
        for number, layer in enumerate(self.encode):
            # the first addition is the slice itself, made by the caller
            skips.append(x if number % 2 == 0 and number > 0 else None)
            if number == 0:  # the slice enters in full precision too
                with torch.autocast(x.device.type, enabled=False):
                    x = functional.relu(layer(x))
            else:
                x = functional.relu(layer(x))
        for layer in self.decode:
            skip = skips.pop()
            x = layer(x) if skip is None else layer(x) + skip
            if skips:
                x = functional.relu(x)
        return x


def _start(layer: nn.Module, entering: Literal["fan_in", "fan_out"]) -> None:
    """Weights that keep the variance through rectified layers (He et al. 2015)."""
    nn.init.kaiming_normal_(layer.get_parameter("weight"), mode=entering, nonlinearity="relu")
    nn.init.zeros_(layer.get_parameter("bias"))
