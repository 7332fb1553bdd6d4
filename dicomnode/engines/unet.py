"""The network both stages share: a small residual U-Net steered by a few numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class UNetShape:
    """What must be known to rebuild a network: channels in, widths from fine to coarse, steering numbers."""

    channels_in: int
    widths: tuple[int, ...]
    conditions: int
    embedding: int = 64

    def build(self) -> "UNet":
        """A network of this shape that has learned nothing."""
        return UNet(self)


class UNet(nn.Module):
    """Residual U-Net without normalisation: [n, channels, y, x] and conditions [n, c] -> [n, 1, y, x].

    The conditions set gain and offset in every block. No batch or group statistics: the answer for a pixel
    depends on its surroundings alone, never on the rest of the slice or batch. Sides may be any size.
    """

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        widths = shape.widths
        self.embed = nn.Sequential(
            nn.Linear(shape.conditions, shape.embedding),
            nn.SiLU(),
            nn.Linear(shape.embedding, shape.embedding),
            nn.SiLU(),
        )
        self.enter = nn.Conv2d(shape.channels_in, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Block(width, shape.embedding) for width in widths[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.bottom = nn.ModuleList(_Block(widths[-1], shape.embedding) for _ in range(2))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_Block(width, shape.embedding) for width in widths[:-1])
        self.leave = nn.Conv2d(widths[0], 1, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        if self.leave.bias is not None:
            nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        multiple = 2 ** (len(self.shape.widths) - 1)
        pad = (0, -width % multiple, 0, -height % multiple)
        x = functional.pad(x, pad, mode="replicate")
        steer = self.embed(conditions)
        x = self.enter(x)
        skips: list[Tensor] = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x, steer)
            skips.append(x)
            x = shrink(x)
        for block in self.bottom:
            x = block(x, steer)
        for block, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            x = block(grow(x) + skips.pop(), steer)
        answer: Tensor = self.leave(x)
        return answer[..., :height, :width]

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


class _Block(nn.Module):
    """Two convolutions around a steered activation, added to the input."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.steer = nn.Linear(embedding, 2 * width)
        nn.init.zeros_(self.steer.weight)

    def forward(self, x: Tensor, steer: Tensor) -> Tensor:
        gain, offset = self.steer(steer)[:, :, None, None].chunk(2, dim=1)
        h = self.first(functional.silu(x)) * (1.0 + gain) + offset
        change: Tensor = self.second(functional.silu(h))
        return x + change


def placed(network: Net, device: torch.device) -> Net:
    """The network itself, moved to `device`, its images laid out channels last, as convolutions like them."""
    network.to(device)
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.to(memory_format=torch.channels_last)
    return network


def high_pass(x: Tensor, width: int = 9) -> Tensor:
    """What a box of `width` does not explain, [n, 1, y, x]: where the noise lives, near zero mean."""
    padded = functional.pad(x, (width // 2,) * 4, mode="replicate")
    return x - functional.avg_pool2d(padded, width, stride=1)


def condition_tensor(rows: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """Conditions of a batch as a float32 tensor [n, c] on the device of `like`."""
    return torch.tensor(rows, dtype=torch.float32, device=like.device)


def bf16_pays(device: torch.device) -> bool:
    """Whether bfloat16 is faster here: on GPUs and processors that multiply it in hardware."""
    if device.type != "cpu":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16", False))
