"""Decompress pixel data in a process of its own, under limits of memory and time.

The codec libraries are written in C and read what strangers send: one that crashes, hangs or asks for
gigabytes must not take the node with it. One decoder a process, started with the first compressed image; it
ends with its parent. A frame of 512 x 512 costs a millisecond more this way than in place.
"""

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from dicomnode.dicom.values import UNREADABLE
from dicomnode.errors import DecoderUnavailable, Undecodable

MEMORY_BYTES: Final = 768 * 2**20
"""Address space above that of the idle decoder; 4096 x 4096 pixels of JPEG 2000 take 300 MiB."""
CPU_SECONDS: Final = 0.5
PIXELS_PER_SECOND: Final = 3e6
"""Of processor time; JPEG 2000, the slowest, does 7 to 8 million a second on one core of a small machine."""
WALL_SECONDS: Final = 60.0
"""For a decoder that neither works nor ends; it may have to wait long for a busy processor."""

DECODER_ERRORS: Final[tuple[type[Exception], ...]] = (*UNREADABLE, RuntimeError, MemoryError)
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True)
class Frame:
    """What a decoder must know of one grey frame beside its codestream."""

    transfer_syntax: str
    rows: int
    columns: int
    bits_stored: int
    signed: bool


class Decoder:
    """A worker process and the pipes to it. Safe for several threads; they take turns."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._answers: int = -1

    def decode(self, frame: Frame, codestream: bytes) -> NDArray[np.generic]:
        """The decoded image [row, column] as the codec gave it; its shape is for the caller to check.

        :raises Undecodable: the codec refused, crashed, or went over its limits.
        :raises DecoderUnavailable: there is no process to be had.
        """
        with self._guard:
            try:
                return self._asked(frame, codestream)
            except _KilledFromOutside:
                return self._asked(frame, codestream)

    def stop(self) -> None:
        """End the process; the next frame starts another."""
        with self._guard:
            self._end()

    def _asked(self, frame: Frame, codestream: bytes) -> NDArray[np.generic]:
        process = self._running()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            for part in (json.dumps(asdict(frame)).encode(), codestream):
                process.stdin.write(_LENGTH.pack(len(part)))
                process.stdin.write(part)
            process.stdin.flush()
        head = self._read(_LENGTH.size)
        answer = None if head is None else self._read(_LENGTH.unpack(head)[0])
        body = None if answer is None else self._read(int(json.loads(answer).get("bytes", 0)))
        if answer is None or body is None:
            raise self._died()
        told = json.loads(answer)
        if "error" in told:
            raise Undecodable(f"{_name(frame)} pixel data cannot be decoded ({told['error']})")
        return np.frombuffer(body, told["dtype"]).reshape(told["shape"])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():
            self._process = None  # of the process that this one was forked from
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._start()
        assert self._process is not None
        return self._process

    def _start(self) -> None:
        self._answers, theirs = os.pipe()
        program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({theirs})"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs,),
            )
        except (OSError, MemoryError) as error:
            os.close(self._answers)
            raise DecoderUnavailable("no process can be started to decompress images in") from error
        finally:
            os.close(theirs)
        self._owner = os.getpid()
        if self._read(_LENGTH.size) is None:
            self._end()
            raise DecoderUnavailable("the process that decompresses images does not come up")

    def _read(self, size: int) -> bytes | None:
        """Exactly `size` bytes, or None where the process ended or is silent for too long."""
        parts, left = [], size
        while left:
            ready, _, _ = select.select([self._answers], [], [], WALL_SECONDS)
            part = os.read(self._answers, left) if ready else b""
            if not part:
                return None
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _died(self) -> Exception:
        process = self._process
        assert process is not None
        try:
            ended = -process.wait(1.0)
        except subprocess.TimeoutExpired:
            ended = 0
        self._end()
        if ended == signal.SIGKILL:
            return _KilledFromOutside("the process that decompresses images was killed")
        how = "took too long" if ended in (0, signal.SIGPROF) else "crashed"
        return Undecodable(f"the decoder {how} on the compressed pixel data; send the series uncompressed")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        os.close(self._answers)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


class _KilledFromOutside(DecoderUnavailable):
    """By the system in want of memory, not by the image: once more is worth a try."""


DECODER: Final = Decoder()
"""The one of this process."""


def _name(frame: Frame) -> str:
    return UID(frame.transfer_syntax).name


# --- in the process of the decoder ------------------------------------------------------------------


def serve(answers: int) -> None:
    """Answer until the parent has gone. The first answer, of no bytes, says that all libraries are loaded."""
    with open(answers, "wb") as out:
        _load_codecs()
        _limit_memory()
        out.write(_LENGTH.pack(0))
        out.flush()
        while (asked := _received(sys.stdin.buffer)) is not None:
            frame = Frame(**json.loads(asked))
            codestream = _received(sys.stdin.buffer) or b""
            allowed_seconds = CPU_SECONDS + frame.rows * frame.columns / PIXELS_PER_SECOND
            signal.setitimer(signal.ITIMER_PROF, allowed_seconds)  # nobody handles it: it ends the process
            head, body = _answer(frame, codestream)
            signal.setitimer(signal.ITIMER_PROF, 0)
            out.write(_LENGTH.pack(len(head)) + head)
            out.write(body)
            out.flush()


def _received(source: BinaryIO) -> bytes | None:
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return source.read(_LENGTH.unpack(head)[0])


def _answer(frame: Frame, codestream: bytes) -> tuple[bytes, bytes]:
    try:
        image = np.ascontiguousarray(decoded(frame, codestream))
    except DECODER_ERRORS as error:
        return json.dumps({"error": type(error).__name__}).encode(), b""
    told = {"dtype": image.dtype.str, "shape": image.shape, "bytes": image.nbytes}
    return json.dumps(told).encode(), image.tobytes()


def decoded(frame: Frame, codestream: bytes) -> NDArray[np.generic]:
    """One frame decoded in this process."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(frame.transfer_syntax)
    data.Rows, data.Columns, data.SamplesPerPixel = frame.rows, frame.columns, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, frame.bits_stored, frame.bits_stored - 1
    data.PixelRepresentation = int(frame.signed)
    data.PixelData = encapsulate([codestream], has_bot=False)
    data["PixelData"].is_undefined_length = True
    image: NDArray[np.generic] = data.pixel_array
    return image


def _load_codecs() -> None:
    """Import what decoding imports on first use, so that the limits are above all of it."""
    for module in ("jpeg_ls", "libjpeg", "openjpeg", "pydicom.pixels"):
        importlib.import_module(module)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the image
