"""Generated tables of other people's models: what is right of each once it has been cut into blocks."""

import statistics
from collections.abc import Callable

from lines import Line, Results
from tables import table

CLOSE = 1e-4  # by which ONNX's scores may differ, relative to the largest


def _faults(arm: Line) -> list[str]:
    """What is not right of a model that was cut, in words."""
    if "failed" in arm:
        return [arm["failed"]]
    onnx = arm["onnx"]
    found = [
        (arm["leaks"], f"{arm['leaks']} losses reach another block"),
        (arm["largest"] > 0.5, "more than half of the weights in one block"),
        (not arm["saved_and_loaded"], "does not come back from its folder"),
        (not isinstance(onnx, float), "no ONNX"),
        (isinstance(onnx, float) and onnx > CLOSE, "ONNX differs"),
        *(
            (fell < blocks, f"{rule} lowers the loss of {fell} of {blocks} blocks")
            for rule, (fell, blocks, _) in arm["lowered"].items()
        ),
    ]
    return [says for wrong, says in found if wrong]


def models(kind: str) -> Callable[[Results], str]:
    """A table of other people's models of one library."""

    def shown(results: Results) -> str:
        rows = []
        for name, arm in _models(results, kind).items():
            sizes = (
                [
                    f"{arm['weights'] / 1e6:.2f}",
                    str(arm["blocks"]),
                    f"{100 * arm['largest']:.0f}",
                    f"{arm['saved']:.2f}",
                ]
                if "blocks" in arm
                else [""] * 4
            )
            alone = "yes" if arm.get("alone") == "yes" else "" if "failed" in arm else "no"
            rows.append([f"`{name}`", *sizes, alone, "; ".join(_faults(arm))])
        head = ["model", "weights, millions", "blocks", "largest, % of the weights", "bytes saved / backprop"]
        return table([*head, "blocks can be called alone", "not right"], rows)

    return shown


def models_counted(results: Results) -> str:
    """A sentence for each library on how many of its models are right in everything."""
    said, first = [], results.timing("models/walk")["config"]["rates"][0]
    for kind, name in (("timm", "modules of timm"), ("transformers", "families of Hugging Face")):
        arms = list(_models(results, kind).values())
        right = [arm for arm in arms if not _faults(arm)]
        slow = sum(min(rate for _, _, rate in arm["lowered"].values()) < first for arm in right)
        saved = statistics.median(arm["saved"] for arm in arms if "saved" in arm)
        alone = sum(arm.get("alone") == "yes" for arm in arms)
        said.append(
            f"- **{len(right)} of {len(arms)} {name}** are right in everything, {slow} of them at the lower rate. "
            f"The median of the bytes saved for backward is {saved:.2f} of backprop's, and the blocks of {alone} can "
            "be called alone.\n"
        )
    return "".join(said)


def _models(results: Results, kind: str) -> Line:
    arms = results.timing("models/walk")["arms"]
    return {name.partition(":")[2]: arm for name, arm in sorted(arms.items()) if name.startswith(f"{kind}:")}
