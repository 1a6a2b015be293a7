"""The C functions that a file is made of: one file of `parts/` for each, in the order in which they are written."""

from importlib.resources import files

ORDER = (
    "random",
    "update",
    "linear",
    "linear_gradient",
    "linear_to_input",
    "convolution_shape",
    "convolution",
    "convolution_gradient",
    "convolution_to_input",
    "relu",
    "relu_gradient",
    "batch_norm",
    "batch_norm_gradient",
    "mean_square",
    "unit_rms",
    "standardise",
    "standardise_gradient",
    "cross_entropy",
    "grid_pool",
    "grid_pool_gradient",
    "class_goodness",
    "class_goodness_gradient",
    "group_scores",
    "group_scores_gradient",
    "group_norm",
    "sigmoid",
)

NEEDS = {
    "unit_rms": ("mean_square",),
    "group_norm": ("standardise", "group_scores"),
    "class_goodness": ("mean_square",),
    "class_goodness_gradient": ("mean_square",),
    "convolution": ("convolution_shape",),
}
"""Parts that another one calls."""


def text_of(wanted: set[str]) -> str:
    """The text of the wanted parts and of those that they call."""
    every = set(wanted)
    for name in wanted:
        every.update(NEEDS.get(name, ()))
    folder = files("forwardonly.export.c") / "parts"
    return "\n".join((folder / f"{name}.c").read_text(encoding="utf-8") for name in ORDER if name in every)
