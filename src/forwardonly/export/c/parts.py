"""The C functions that a file is made of: one file of `sources/` for each, in the order in which they are written."""

from collections.abc import Mapping
from importlib.resources import files

ORDER = (
    "random",
    "hard_label",
    "update",
    "linear",
    "linear_gradient",
    "linear_to_input",
    "convolution_shape",
    "convolution_at",
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
    "prototype_rms",
    "class_goodness",
    "class_goodness_gradient",
    "add_unit",
    "symmetric",
    "fitted_prototype",
    "groups",
    "group_scores",
    "group_scores_gradient",
    "group_norm",
    "sigmoid",
)

INT8 = (
    "random",
    "rounding",
    "whole_rate",
    "division",
    "root",
    "convolution_shape",
    "product",
    "linear",
    "linear_sums",
    "convolution_at",
    "pooled_at",
    "convolution",
    "convolution_sums",
    "fitted",
    "move",
    "gather",
    "take_steps",
    "take_bias_steps",
    "step_norm",
    "linear_update",
    "bias_update",
    "linear_to_input",
    "convolution_update",
    "convolution_to_input",
    "relu_gradient",
    "batch_norm",
    "scale_update",
    "batch_norm_gradient",
    "weighted",
    "unit_rms",
    "standardise",
    "exponential",
    "raised",
    "surprise",
    "hard_label",
    "sigmoid",
    "goodness",
    "groups",
    "group_scores",
    "group_scores_gradient",
    "group_norm",
    "grid_pool",
    "grid_pool_gradient",
    "cosines",
    "prototypes_update",
)
"""The same for whole numbers: those that `sources/int8/` has are taken from there."""

SHARED = ("random", "convolution_shape", "convolution_at", "groups")
"""Parts for whole numbers that are those for floats."""
FLOATS, WHOLE_NUMBERS = {"{NUMBER}": "float", "{SUM}": "float"}, {"{NUMBER}": "int8_t", "{SUM}": "int32_t"}
"""The types of weights and signals, and of sums of their products, in the parts that are shared."""

GATHERED = {
    "int8_t *weight, int8_t *error": "int32_t *sums_of_steps",
    "int8_t *prototypes, int8_t *error": "const int8_t *prototypes, int32_t *sums_of_steps",
    "move(weight + at, error + at, ": "gather(sums_of_steps + at, ",
    "move(prototypes + at, error + at, ": "gather(sums_of_steps + at, ",
    "int32_t *bias)": "int32_t *sums_of_steps)",
    "gather(bias + c, -shifted(": "gather(sums_of_steps + c, shifted(",
}
"""How the parts that take a step read where the steps of a batch are added up."""
TAKE_A_STEP = ("linear_update", "convolution_update", "bias_update", "scale_update", "prototypes_update")

INT8_NEEDS = {
    "bias_update": ("gather",),
    "take_bias_steps": ("gather",),
    "convolution": ("convolution_at", "pooled_at"),
    "convolution_sums": ("convolution_at", "pooled_at"),
    "batch_norm": ("division", "root"),
    "step_norm": ("division", "root"),
    "hard_label": ("exponential", "random"),
    "surprise": ("exponential", "raised"),
    "sigmoid": ("exponential", "raised"),
    "goodness": ("division", "product"),
    "group_scores": ("division", "groups"),
    "group_norm": ("standardise", "root", "product", "groups"),
    "unit_rms": ("division", "root", "product"),
    "standardise": ("root", "product"),
    "cosines": ("division", "root", "product"),
    "prototypes_update": ("division",),
    "grid_pool": ("division",),
}
NEEDS = {
    "unit_rms": ("mean_square",),
    "group_scores": ("groups",),
    "group_norm": ("standardise", "groups"),
    "class_goodness": ("mean_square", "prototype_rms"),
    "class_goodness_gradient": ("mean_square", "prototype_rms"),
    "fitted_prototype": ("symmetric",),
    "convolution": ("convolution_shape", "convolution_at"),
}
"""Parts that another one calls."""


def text_of(wanted: set[str]) -> str:
    """The text of the wanted parts and of those that they call."""
    every = wanted.union(*(NEEDS.get(name, ()) for name in wanted))
    return "\n".join(_read(f"{name}.c", FLOATS) for name in ORDER if name in every)


def int8_text_of(wanted: set[str], *, gathers: bool) -> str:
    """The same for whole numbers; `gathers` says whether the steps of a batch are added up."""
    every = wanted.union(*(INT8_NEEDS.get(name, ()) for name in wanted))
    texts = []
    for name in INT8:
        if name in every:
            changes = {**WHOLE_NUMBERS, **(GATHERED if gathers and name in TAKE_A_STEP else {})}
            texts.append(_read(f"{name}.c" if name in SHARED else f"int8/{name}.c", changes))
    return "\n".join(texts)


def _read(name: str, changes: Mapping[str, str]) -> str:
    """The text of a part, with its placeholders, or what else is to be changed, filled in."""
    text = (files("forwardonly.export.c") / "sources" / name).read_text(encoding="utf-8")
    for old, new in changes.items():
        text = text.replace(old, new)
    return text
