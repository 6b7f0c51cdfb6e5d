"""Decoding in a process that can be lost: same pixels, same rejects, and what kills or hangs a decoder is one row's."""

import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.config import DecodeConfig
from jobs.errors import ClusterError, Reason, Reject
from jobs.images.canvas import Canvas
from jobs.images.isolated import MAX_ATTEMPTS, SubprocessDecoder, deadline
from jobs.images.render import render
from tests.support.processes import until

CANVASES = (Canvas(squash=(8, 8)), Canvas(shortest_edge=20, crop=(16, 12)))
POISON = """
import ctypes, os, sys
from PIL import Image

def segv(): ctypes.string_at(0)
def hang(): ctypes.PyDLL(None).sleep(3600)  # and holds the GIL
def loop(): ctypes.CDLL(None).sleep(3600)
def exits(): os._exit(7)
def prints(): os.write(1, b"warning: from a C library" * 99); return Image.new("RGB", (9, 9))

def opened(file, name):
    kind = file.read().decode()
    with open(os.path.join(os.path.dirname(__file__), kind), "a") as tries:
        tries.write("x")
    return {"segv": segv, "hang": hang, "loop": loop, "exits": exits, "prints": prints}[kind]()

Image.register_open("POISON", opened, lambda head: head in (b"segv", b"hang", b"loop", b"exits", b"prints"))
"""


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every Python that is started has decoders that really die and really hang; their tries are left here."""
    (tmp_path / "sitecustomize.py").write_text(POISON)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def child() -> Iterator[SubprocessDecoder]:
    with closing(SubprocessDecoder(DecodeConfig(), CANVASES, 30.0)) as made:
        yield made


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


PHOTO = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8), "RGB"))


def same(child: SubprocessDecoder, data: bytes = PHOTO, config: DecodeConfig = DecodeConfig()) -> bool:  # noqa: B008 - frozen
    ours, expected = child(data), render(data, config, CANVASES)
    return len(ours) == len(expected) and all(map(np.array_equal, ours, expected))


def refused(child: SubprocessDecoder, data: bytes) -> Reject:
    with pytest.raises(Reject) as caught:
        child(data)
    return caught.value


def pid_of(child: SubprocessDecoder) -> int:
    assert child._process is not None
    return child._process.pid


def unhurried(child: SubprocessDecoder) -> SubprocessDecoder:
    """With time enough for the next image, however busy the machine is."""
    child._setup = (*child._setup[:2], 600.0)
    return child


def test_pixels_are_those_of_render(child: SubprocessDecoder) -> None:
    for format in ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF"):
        assert same(child, encoded(Image.open(io.BytesIO(PHOTO)), format)), format


def test_the_options_of_decode_hold_in_the_child() -> None:
    config = DecodeConfig(alpha="drop", max_pixels=1000)
    with closing(SubprocessDecoder(config, CANVASES, 30.0)) as child:
        assert refused(child, PHOTO).reason == Reason.TOO_LARGE
        assert same(child, encoded(Image.new("RGBA", (10, 20), (200, 0, 0, 0))), config)


@pytest.mark.parametrize("data", [b"", b"<html>", PHOTO[:-99]])
def test_a_reject_passes_through_and_the_next_image_is_decoded(child: SubprocessDecoder, data: bytes) -> None:
    with pytest.raises(Reject) as expected:
        render(data, DecodeConfig(), CANVASES)
    assert refused(child, data).args == expected.value.args
    assert same(child)


def test_a_picture_that_takes_too_long_is_a_timeout_and_the_next_image_is_decoded() -> None:
    slow = encoded(Image.new("1", (12_000, 12_000)))
    with closing(SubprocessDecoder(DecodeConfig(), CANVASES, 0.2)) as child:
        reject = refused(child, slow)
        assert reject.reason == Reason.DECODE_TIMEOUT
        assert "0.2 s" in reject.message
        assert same(unhurried(child))


@pytest.mark.parametrize("kind", ["hang", "loop"])
def test_a_decoder_that_hangs_is_a_timeout_tried_once(poison: Path, kind: str) -> None:
    """It would hang for an hour."""
    with closing(SubprocessDecoder(DecodeConfig(), CANVASES, 0.5)) as child:
        assert refused(child, kind.encode()).reason == Reason.DECODE_TIMEOUT
        assert same(unhurried(child))
    assert (poison / kind).read_text() == "x"


@pytest.mark.parametrize(("kind", "how"), [("segv", "signal SIGSEGV"), ("exits", "exit code 7")])
def test_a_decoder_that_dies_is_a_reject_that_says_how(
    poison: Path, child: SubprocessDecoder, kind: str, how: str
) -> None:
    reject = refused(child, kind.encode())
    assert reject.reason == Reason.DECODE_CRASHED
    assert reject.message == f"the decoder died {MAX_ATTEMPTS} times ({how})"
    assert (poison / kind).read_text() == "x" * MAX_ATTEMPTS
    assert same(child)


def test_what_a_c_library_prints_is_no_answer(poison: Path, child: SubprocessDecoder) -> None:
    assert [canvas.shape for canvas in child(b"prints")] == [(8, 8, 3), (16, 12, 3)]
    assert same(child)


def test_what_needs_more_memory_than_the_largest_picture_is_too_large() -> None:
    """Resized it would take 10 GB. Nothing is touched: the kernel refuses the address space."""
    huge = (Canvas(squash=(50_000, 50_000)),)
    with closing(SubprocessDecoder(DecodeConfig(max_pixels=2000), huge, 30.0)) as child:
        assert refused(child, PHOTO).reason == Reason.TOO_LARGE


def test_a_huge_picture_within_a_smaller_limit_is_too_large_and_the_next_image_is_decoded(
    child: SubprocessDecoder,
) -> None:
    assert same(child)
    pid = pid_of(child)
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    assert used < soft < used + (8 << 30)
    resource.prlimit(pid, resource.RLIMIT_AS, (used + (200 << 20), hard))
    assert refused(child, encoded(Image.new("1", (12_000, 12_000)))).reason == Reason.TOO_LARGE
    assert same(child)


def test_a_child_that_was_killed_while_it_waited_costs_no_image(child: SubprocessDecoder) -> None:
    """The kernel's choice when memory is short."""
    assert same(child)
    pid = pid_of(child)
    os.kill(pid, signal.SIGKILL)
    assert same(child)
    assert pid_of(child) != pid


def test_a_child_that_cannot_start_is_no_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every image of the block would be a crash."""
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        closing(SubprocessDecoder(DecodeConfig(), CANVASES, 30.0)) as child,
        pytest.raises(ClusterError, match="exit code 3"),
    ):
        child(PHOTO)


def ran(*lines: str) -> "subprocess.CompletedProcess[str]":
    code = "\n".join(["import ctypes, time", "from jobs.images.isolated import SubprocessDecoder, deadline", *lines])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, cwd=Path.cwd())


@pytest.mark.parametrize("library", ["CDLL", "PyDLL"])
def test_the_deadline_ends_a_process_that_hangs_also_when_it_holds_the_gil(library: str) -> None:
    done = ran(
        "with deadline(0.3) as watch:",
        "    watch.restart()",
        f"    ctypes.{library}(None).sleep(3600)",
    )
    assert done.returncode == 1
    assert "Timeout" in done.stderr


def test_the_deadline_is_of_one_image_and_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of faulthandler's timer begins anew, and the last one wins."""
    calls: list[object] = []
    monkeypatch.setattr(
        "faulthandler.dump_traceback_later", lambda seconds, **how: calls.append((seconds, how["exit"]))
    )
    monkeypatch.setattr("faulthandler.cancel_dump_traceback_later", lambda: calls.append("cancelled"))
    with deadline(0.6) as watch:
        for _ in range(2):
            watch.restart()
    assert calls == [(0.6, True), (0.6, True), "cancelled"]


def test_a_child_whose_parent_is_gone_ends_also_in_the_middle_of_an_image(poison: Path) -> None:
    """Ray kills workers; a child that outlives its worker would use a core forever."""
    done = ran(
        "import os, threading",
        "from jobs.config import DecodeConfig",
        "child = SubprocessDecoder(DecodeConfig(), [], 3.0)",
        "threading.Thread(target=child, args=[b'hang'], daemon=True).start()",
        f"while not os.path.exists({str(poison / 'hang')!r}): time.sleep(0.05)",
        "print(child._process.pid, flush=True)",
        "os.kill(os.getpid(), 9)",
    )
    stat = Path(f"/proc/{int(done.stdout)}/stat")
    assert stat.exists()
    until(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")
