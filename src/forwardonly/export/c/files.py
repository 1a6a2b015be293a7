"""Writing the C file and its header."""

from pathlib import Path
from typing import Any

from forwardonly.export.c.emit import NAME, emit
from forwardonly.export.c.plan import make_plan
from forwardonly.network.network import Network
from forwardonly.network.storage import write_atomically


def export_c(network: Network, folder: str | Path, *, batch_size: int = 1, **options: Any) -> list[Path]:
    """Writes a network and its training step as `training_step.c` and `training_step.h`. Returns both.

    The C needs no library but `math.h` and `string.h`, and no memory but its own; the header's first lines say how
    much. It learns what `Online(network, batch_size images at a time)` learns, up to the rounding of float32.

    Args:
        batch_size: examples whose gradients make one update.
        options: fields of `TrainingConfig`: `learning_rate`, `momentum`, `weight_decay` and `clip` count, and
            `optimiser` must be sgd.

    Raises:
        ValueError: a rule, a body or an option that C cannot hold, with what it can; the folder cannot be written.
    """
    source, header = emit(make_plan(network, batch_size=batch_size, **options))
    folder = Path(folder)
    paths = [folder / f"{NAME}.c", folder / f"{NAME}.h"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, (source, header), strict=True):
            write_atomically(path, text.encode())
    except OSError as problem:
        raise ValueError(f"Cannot write to {folder}: {problem.strerror or problem}.") from None
    return paths
