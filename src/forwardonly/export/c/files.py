"""Writing the C file and its header."""

from pathlib import Path
from typing import Any

from forwardonly.export.c import int8_limits
from forwardonly.export.c.float_emit import emit_float
from forwardonly.export.c.header import header, identity
from forwardonly.export.c.int8_emit import emit_int8
from forwardonly.export.c.new_class import require_spare
from forwardonly.export.c.plan import Precision
from forwardonly.export.c.reading import make_plan
from forwardonly.export.c.text import NAME
from forwardonly.network.network import Network
from forwardonly.network.storage import write_atomically


def export_c(
    network: Network,
    folder: str | Path,
    *,
    batch_size: int = 1,
    precision: Precision = "float32",
    spare_classes: int = 0,
    **options: Any,
) -> list[Path]:
    """Writes a network and its training step as `training_step.c` and `training_step.h`. Returns both.

    The C needs no library but `math.h` and `string.h`, and no memory but its own; the header's first lines say how
    much. In float32 it learns what `Online` learns from `batch_size` images at a time, up to rounding; in int8 it
    learns bit for bit what `Int8Learner` learns.

    Args:
        batch_size: examples whose gradients make one update.
        precision: of weights, signals and sums. int8 takes plain SGD, and fewer options of rules.
        spare_classes: room for so many classes that `fo_add_class` adds on the device, as `fo.add_class` does here. The
            network needs the statistics of `fo.summarise`, which become constants; in float32.
        options: fields of `TrainingConfig`: `learning_rate`, `momentum`, `weight_decay` and `clip` count, and
            `optimiser` must be sgd.

    Raises:
        ValueError: a rule, a body or an option that C cannot hold, with what it can; weights that are not finite; the
            folder cannot be written.
    """
    plan = make_plan(network, batch_size=batch_size, precision=precision, spare_classes=spare_classes, **options)
    require_spare(plan)
    _require_finite(network)
    if precision == "int8":
        int8_limits.check(plan)
    source = (emit_int8 if precision == "int8" else emit_float)(plan, identity(plan))
    folder = Path(folder)
    paths = [folder / f"{NAME}.c", folder / f"{NAME}.h"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, (source, header(plan)), strict=True):
            write_atomically(path, text.encode())
    except OSError as problem:
        raise ValueError(f"Cannot write to {folder}: {problem.strerror or problem}.") from None
    return paths


def _require_finite(network: Network) -> None:
    """Raises ValueError if a weight is NaN or infinite, for which C has no constants."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"{name} holds NaN or infinity: training has diverged; train with a smaller learning_rate."
            )
