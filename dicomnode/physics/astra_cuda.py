"""ASTRA's projector on the memory of a GPU: tensors in and out, no copy through the host.

It is asked only where it proved itself (`works`): against the tensor projector, on that GPU, once in a run.
Its forward projector is Joseph's as well, to the 8 bits of a texture's weights. Its backprojector
interpolates at every pixel instead of gathering what the forward one spread: not the exact transpose.
"""

import logging
import math
import threading
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dicomnode.physics import joseph_torch
from dicomnode.physics.geometry import ParallelBeam

FORWARD_AGREES, BACKWARD_AGREES = 0.02, 0.15
"""Greatest relative difference to the tensor projector; that of a mirrored geometry is about 1."""
TRIAL = ParallelBeam(48, 40, 88, 0.8, 0.1)

_log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()
_verdicts: dict[torch.device, bool] = {}


class AstraFailed(RuntimeError):
    """ASTRA gave no result; the tensor projector takes its place."""


def project(slices: Tensor, beam: ParallelBeam) -> Tensor:
    """Line integrals, as `projection.project`. Raises AstraFailed."""
    sinograms = slices.new_empty((len(slices), beam.views, beam.detectors))
    return _run(slices.detach().contiguous(), sinograms, beam, forward=True)


def backproject(sinograms: Tensor, beam: ParallelBeam) -> Tensor:
    """Nearly the transpose, as `projection.backproject`. Raises AstraFailed."""
    slices = sinograms.new_empty((len(sinograms), beam.side_px, beam.side_px))
    return _run(slices, sinograms.detach().contiguous(), beam, forward=False)


def works(device: torch.device) -> bool:
    """Whether ASTRA projects on this GPU as it should; told in the log if not.

    Tried until there is a verdict: that the GPU is full for the moment is none.
    """
    with _one_at_a_time:
        if device not in _verdicts:
            _try(device)
        return _verdicts.get(device, False)


def ray_geometry(beam: ParallelBeam, slices: int) -> dict[str, Any]:
    """ASTRA's rays for a stack of slices as one volume.

    Of a volume ASTRA's first row is the lowest y, of a single slice, and here, the highest: seen from below,
    views turn the other way.
    """
    import astra  # loads CUDA libraries, which a node on a processor never needs

    found: dict[str, Any] = astra.create_proj_geom(
        "parallel3d", beam.pitch_px, 1.0, slices, beam.detectors, -beam.angles_rad
    )
    return found


def _try(device: torch.device) -> None:
    try:
        why = _what_is_wrong(device)
    except AstraFailed as failed:
        _log.warning("ASTRA could not be tried on %s: %s; the slower tensor projector works", device, failed)
        return
    except torch.OutOfMemoryError:  # says nothing of ASTRA
        raise
    # Whatever a library made for another CUDA or numpy raises, it is not to be used.
    except Exception as error:  # noqa: BLE001
        why = f"{type(error).__name__}: {error}"
    if why:
        _log.warning("ASTRA is not used on %s: %s; the slower tensor projector is", device, why)
    _verdicts[device] = not why


def _what_is_wrong(device: torch.device) -> str:
    import astra

    if not astra.use_cuda():  # asked on, it would kill the process
        return "it sees no GPU"
    noise = torch.randn(3, 52, 52, generator=torch.Generator().manual_seed(0)).to(device)
    phantom = functional.avg_pool2d(noise, 5, stride=1)
    right = joseph_torch.forward(phantom, TRIAL)
    there = _difference(project(phantom, TRIAL), right)
    back = _difference(backproject(right, TRIAL), joseph_torch.adjoint(right, TRIAL))
    if there < FORWARD_AGREES and back < BACKWARD_AGREES:
        return ""
    return (
        f"its projections differ by {there:.1%} from what they should be, its backprojections by {back:.1%}"
    )


def _difference(found: Tensor, right: Tensor) -> float:
    return float(torch.linalg.norm(found - right) / torch.linalg.norm(right))


def _run(slices: Tensor, sinograms: Tensor, beam: ParallelBeam, *, forward: bool) -> Tensor:
    """Fill one of both, contiguous float32 on the same GPU, from the other; the one that was filled."""
    import astra

    source, out = (slices, sinograms) if forward else (sinograms, slices)
    projector = None
    with torch.cuda.device(out.device):  # ASTRA works on the current one
        _make_room(slices.nbytes + sinograms.nbytes)
        out.fill_(math.nan)
        torch.cuda.current_stream().synchronize()
        try:
            volume = astra.create_vol_geom(beam.side_px, beam.side_px, len(slices))
            projector = astra.create_projector("cuda3d", ray_geometry(beam, len(slices)), volume)
            if forward:
                astra.projector3d.direct_FP(projector, slices, out=sinograms)
            else:
                astra.projector3d.direct_BP(projector, sinograms, out=slices)
        except Exception as error:
            raise AstraFailed(f"{type(error).__name__}: {error}") from error
        finally:
            if projector is not None:
                astra.projector3d.delete(projector)
        if not was_filled(out, source):
            raise AstraFailed("it gave no result; the memory of the GPU may be full")
    return out


def was_filled(out: Tensor, source: Tensor) -> bool:
    """Whether every slice has a result. Some versions of ASTRA fail without a word, and leave zeros."""
    empty = source.flatten(1).any(1) & ~out.flatten(1).any(1)
    return not bool(empty.any()) and bool(torch.isfinite(out[:, 0, 0]).all())


def _make_room(wanted_bytes: int) -> None:
    """ASTRA allocates by itself what torch may hold in its cache."""
    if torch.cuda.mem_get_info()[0] < 2 * wanted_bytes:
        torch.cuda.empty_cache()
