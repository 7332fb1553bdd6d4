"""The process in which images are decompressed: what happens in it stays in it."""

import contextlib
import os
import signal
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from dicomnode.dicom.decoder import Decoder, Frame
from dicomnode.errors import Undecodable
from tests.makers import make_series
from tests.processor import with_children, within

Image = tuple[Frame, bytes, np.ndarray]


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = Decoder()
    yield decoder
    decoder.stop()


def frame_of(path: Path) -> Image:
    data = dcmread(path)
    syntax = str(data.file_meta.TransferSyntaxUID)
    frame = Frame(syntax, data.Rows, data.Columns, data.BitsStored, data.PixelRepresentation == 1)
    return frame, get_frame(data.PixelData, 0, number_of_frames=1), data.pixel_array


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return frame_of(make_series(tmp_path / "s", slices=1, transfer_syntax=JPEG2000Lossless)[0])


def pid_of(decoder: Decoder) -> int:
    assert decoder._process is not None
    return decoder._process.pid


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_it_decodes_what_pydicom_decodes(tmp_path: Path, decoder: Decoder, syntax: str, signed: bool) -> None:
    for path in make_series(tmp_path / "s", slices=2, transfer_syntax=syntax, signed=signed):
        frame, codestream, expected = frame_of(path)
        assert np.array_equal(decoder.decode(frame, codestream), expected)


def test_one_process_for_all_frames_that_ends_with_its_owner(decoder: Decoder, image: Image) -> None:
    decoder.decode(*image[:2])
    first = pid_of(decoder)
    decoder.decode(*image[:2])
    assert pid_of(decoder) == first
    decoder.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert np.array_equal(decoder.decode(*image[:2]), image[2])


@contextlib.contextmanager
def striking(decoder: Decoder, signal_number: int) -> Iterator[None]:
    """Strike the process of the decoder once it has the next image: it stands still until then."""
    pid = pid_of(decoder)
    os.kill(pid, signal.SIGSTOP)

    def strike() -> None:
        os.kill(pid, signal_number)
        os.kill(pid, signal.SIGCONT)

    timer = threading.Timer(0.3, strike)
    timer.start()
    yield
    timer.join()


def test_a_crash_refuses_the_image_and_the_next_one_is_decoded(decoder: Decoder, image: Image) -> None:
    decoder.decode(*image[:2])
    crashed = pid_of(decoder)
    with striking(decoder, signal.SIGSEGV), pytest.raises(Undecodable, match="crashed"):
        decoder.decode(*image[:2])
    assert np.array_equal(decoder.decode(*image[:2]), image[2])
    assert pid_of(decoder) != crashed


def test_a_decoder_that_the_system_kills_is_asked_again(decoder: Decoder, image: Image) -> None:
    decoder.decode(*image[:2])
    with striking(decoder, signal.SIGKILL):
        assert np.array_equal(decoder.decode(*image[:2]), image[2])


def test_an_image_that_takes_too_long_is_refused(decoder: Decoder) -> None:
    """Ten million runs of one byte in an image of 64 x 64: seconds of work for nothing."""
    stream = struct.pack("<16I", 2, 64, 65, *[0] * 13) + b"\0\1" * 10_000_000

    def refused() -> None:
        with pytest.raises(Undecodable, match="too long"):
            decoder.decode(Frame(str(RLELossless), 64, 64, 12, False), stream)

    within(2.0, refused, with_children)  # the work is the child's


def test_an_image_that_takes_too_much_memory_is_refused(decoder: Decoder) -> None:
    """Runs of 128 bytes: 20 MB that unpack to 1.3 GB."""
    stream = struct.pack("<16I", 2, 64, 65, *[0] * 13) + b"\x81\1" * 10_000_000
    with pytest.raises(Undecodable):
        decoder.decode(Frame(str(RLELossless), 4096, 4096, 12, False), stream)


def test_nothing_but_a_refusal_comes_out_of_noise(decoder: Decoder, image: Image) -> None:
    frame, codestream, _ = image
    rng = np.random.default_rng(1)
    for _ in range(40):
        noise = bytearray(codestream)
        for at in rng.integers(0, len(noise), 30):
            noise[at] = rng.integers(256)
        with contextlib.suppress(Undecodable):
            assert decoder.decode(frame, bytes(noise)).size
