"""An exported C file compiled and run on this computer: what a device would learn, without the device.

Shapes: B batch, C classes, L blocks.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

STATUS = ("ok", "bad input", "bad label", "diverged", "wrong length", "other net", "damaged", "no room")
"""The answers of C, by their numbers."""
CHUNK = 256  # examples that are sent before their answers are read, fewer than fill a pipe


class Host:
    """The training step of a folder that `export_c` wrote, compiled by a C compiler of this computer.

    Args:
        folder: has `training_step.c` and `training_step.h`.
        compiler: the program; by default `cc`.
        flags: its options.

    Raises:
        ValueError: there is no such compiler, or it refuses the file.
    """

    def __init__(self, folder: str | Path, *, compiler: str = "cc", flags: Sequence[str] = ("-std=c99", "-O2")):
        folder = Path(folder)
        if shutil.which(compiler) is None:
            raise ValueError(f"There is no C compiler {compiler!r} on this computer: install gcc or clang.")
        if not (folder / "training_step.h").exists():
            raise ValueError(f"{folder} has no training_step.h: export a training step in C to it first.")
        header = (folder / "training_step.h").read_text(encoding="utf-8")
        found = dict(re.findall(r"#define (FO_\w+) (\d+)", header))
        self.inputs, self.classes = int(found["FO_INPUTS"]), int(found["FO_CLASSES"])
        self.blocks, self.saved_bytes = int(found["FO_BLOCKS"]), int(found["FO_SAVED_BYTES"])
        self.spare = int(found["FO_SPARE_CLASSES"])
        self.type = np.float32 if "typedef float fo_input" in header else np.uint8
        self._folder = tempfile.TemporaryDirectory()
        program = Path(self._folder.name) / "host"
        (source := Path(self._folder.name) / "host.c").write_text(
            (files("forwardonly.export.c") / "host.c").read_text(encoding="utf-8"), encoding="utf-8"
        )
        words = [compiler, *flags, "-I", str(folder), str(source), str(folder / "training_step.c")]
        done = subprocess.run([*words, "-o", str(program), "-lm"], capture_output=True, text=True)
        if done.returncode or done.stderr:
            self._folder.cleanup()
            raise ValueError(f"{compiler} does not compile {folder / 'training_step.c'}: {done.stderr.strip()}")
        self._process = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def learn(self, images: np.ndarray, labels: Sequence[int] | np.ndarray) -> list[str]:
        """Learns examples (B, ...) with their labels one after another; returns the answer to each."""
        said = []
        for start in range(0, len(labels), CHUNK):
            some = range(start, min(start + CHUNK, len(labels)))
            self._write(b"".join(b"l" + np.int32(labels[i]).tobytes() + self._bytes(images[i]) for i in some))
            said += [self._status() for _ in some]
        return said

    def add_class(self, images: np.ndarray) -> str:
        """Adds a class from examples (B, ...); returns the answer.

        Raises:
            ValueError: the file was exported without spare classes.
        """
        if not self.spare:
            raise ValueError("The C file has no room for more classes: export it with spare_classes.")
        self._write(b"a" + np.int32(len(images)).tobytes() + b"".join(map(self._bytes, images)))
        return self._status()

    def scores(self, images: np.ndarray) -> np.ndarray:
        """The class scores (B, C) of examples (B, ...); minus infinity of a class that is not there yet.

        Raises:
            ValueError: an example is not finite.
        """
        rows = []
        for image in images:
            self._write(b"p" + self._bytes(image))
            status, row = self._status(), np.frombuffer(self._read(4 * self.classes), np.float32)
            if status != "ok":
                raise ValueError(f"The device refuses an example: {status}.")
            rows.append(row)
        return np.array(rows)

    def save(self) -> bytes:
        """The weights as bytes; `read_saved` gives them to a network."""
        self._write(b"s")
        return self._read(self.saved_bytes)

    def load(self, saved: bytes) -> str:
        """Loads weights; returns the answer."""
        if len(saved) > 2 * self.saved_bytes:
            saved = saved[: 2 * self.saved_bytes]  # too long all the same
        self._write(b"w" + np.int32(len(saved)).tobytes() + saved)
        return self._status()

    def losses(self) -> np.ndarray:
        """Each block's mean loss in the last update, (L,)."""
        self._write(b"o")
        return np.frombuffer(self._read(4 * self.blocks), np.float32)

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate."""
        self._write(b"r" + np.float32(rate).tobytes())

    def close(self) -> int:
        """Ends the program; returns its exit status, which is 0 unless a sanitiser found something."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        status = self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()
        return status

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bytes(self, image: np.ndarray) -> bytes:
        given = np.asarray(image)
        if self.type is np.uint8 and given.dtype != np.uint8 and given.size:
            low, high = given.min(), given.max()
            if given.dtype.kind not in "biu" or low < 0 or high > 255:
                raise ValueError(f"An example is bytes from 0 to 255, not {given.dtype} from {low} to {high}.")
        content = np.ascontiguousarray(given, self.type)
        if content.size != self.inputs:
            raise ValueError(f"An example has {self.inputs} numbers, not {content.size}.")
        return content.tobytes()

    def _write(self, content: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(content)
        self._process.stdin.flush()

    def _status(self) -> str:
        return STATUS[int(np.frombuffer(self._read(4), np.int32)[0])]

    def _read(self, size: int) -> bytes:
        assert self._process.stdin is not None and self._process.stdout is not None
        content = self._process.stdout.read(size)
        if len(content) != size:
            raise ValueError("The program has ended: a sanitiser or the system stopped it.")
        return content
