"""Cuts a user's own model into locally trained blocks, without editing it and without tracing it.

Where walls can stand is seen in one forward pass (`walls.py`), and what rules read there in its graph (`layout.py`).
The model then runs as it was written; a wall is a hook that detaches what passes it.
"""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from forwardonly.names import name_in, nearest, regular_expression, require, whole_number
from forwardonly.network import models
from forwardonly.network.build import range_of, rule_of
from forwardonly.network.cuts import cuts_at
from forwardonly.network.heads import Heads, heads_of, warn_of_several, without
from forwardonly.network.localized import Cut, Localized, UnreachedWarning, unreached_words
from forwardonly.network.network import Network
from forwardonly.network.prepare import Form, form_of
from forwardonly.network.reading import Channels, Layout, Reading
from forwardonly.network.readout import Kind
from forwardonly.network.signal import detached, named_tensors, reason_of, same, sizes_of, to_device
from forwardonly.network.vocabulary import fed_tables, with_vocabulary
from forwardonly.network.walled import Walled, unchanged
from forwardonly.network.walls import Recording, Wall, balanced, candidates, owners, record, settle
from forwardonly.rules import TABLE, Projection, Rule, TwoStreamRule
from forwardonly.rules.base import require_rule

TOO_LARGE = 0.6
"""Share of the weights that are trained and in one block above which it is said."""


class LargeBlockWarning(UserWarning):
    """Most of a model is in one block."""


def localize(
    model: nn.Module | str,
    rule: Rule,
    example: Any,
    *,
    blocks: int | str | Sequence[str] = "auto",
    keep_head: bool = False,
    heads: Literal["new", "own"] = "new",
    channels: Channels | None = None,
    readout: Kind = "sum",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    source: Mapping[str, Any] | None = None,
    **options: Any,
) -> Network:
    """A network whose blocks are parts of `model`, each trained by its own copy of `rule`.

    The model runs as it was written, with its control flow, skips and inputs. Walls stand where every weight is reached
    by one block's loss alone. What is behind the last wall, such as the model's classifier, is not trained: each rule
    computes class scores itself. Nor are weights that the example does not reach, which a warning names. The model is
    moved to the CPU; `fit` and `.to` move the network.

    Args:
        model: any module; or the name of one to build, "timm:resnet18" or "hf:FOLDER" (a Hugging Face model), with
            which `fo.load` builds it again.
        rule: of every block; backprop makes the whole model one block.
        example: a few inputs, with the batch on axis 0: a tensor, a tuple of arguments or a dict of named ones. A
            tensor (B, C, H, W) stands for images, which are scaled and standardised; everything else goes to the model
            as it is.
        blocks: "auto" opens sequences and whatever has more than half of the weights; a number makes so many blocks,
            as even in weights as their order allows; names are those of the modules behind which the walls are to
            stand; any other text is a regular expression that those names match.
        keep_head: train a last linear layer that gives the model's output; otherwise it is left out, as is every linear
            layer that gives one of several outputs and that no weights follow. Where that is more than one, it is said.
        heads: "new" read-outs of the rule, or the model's "own": its last linear layer reads every block, through a map
            that starts as the identity and a copy of the model's last norm (the tuned lens, arXiv 2303.08112). It is
            for the next token under the projection rule, and leaves a model that is not trained with readout="last" as
            good as it was.
        channels: which axis of every signal holds the channels, where the model does not show it.
        readout: how the blocks' scores become the network's.
        mean: of pixels from 0 to 1, one for each channel, that the model's weights were trained with, and `std` their
            deviation; by default what a named model that is `pretrained` says, else those of the training images.
        seed: of the rules' initial weights.
        source: how a model that is given is built again: {"name": "timm:resnet18", "options": {}}.
        options: of a model that is named.

    Raises:
        ValueError: the model does not take the example, no wall can stand in it, a name is not one of its modules or no
            wall can stand there, two blocks would share weights, a weight is not float32, a signal cannot be read, or
            the model has no head that could read every block.
    """
    require("model", model, (nn.Module, str), "a module, or a name such as 'timm:resnet18'")
    require_rule(rule)
    seed = whole_number("seed", seed, 0)
    if heads not in ("new", "own"):
        raise ValueError(f"heads is 'new' or 'own', not {heads!r}.")
    if heads == "own" and (type(rule) is not Projection or rule.targets != "token" or keep_head):
        raise ValueError(
            "heads='own' is for the next token: give fo.rules.Projection(targets='token', ...), and keep_head=False."
        )
    if isinstance(model, str):
        named = {"name": model, "options": options}
        model = models.build(model, options)
        source = models.source_of(model) or named
        if options.get("pretrained") and mean is None and std is None:
            mean, std = models.statistics(model) or (None, None)
    elif options:
        raise ValueError(f"{next(iter(options))!r} is no option of localize: options are for a model that is named.")
    elif source is None:
        source = models.source_of(model)
    _require_open(model)
    _require_float32(model)
    if (mean is None) != (std is None) or (
        mean is not None and not (isinstance(example, Tensor) and example.dim() == 4)
    ):
        raise ValueError("mean and std are given together, for a model of images: an example (B, C, H, W).")
    model, example = model.cpu(), to_device(example, torch.device("cpu"))
    form = form_of(example)
    images = isinstance(example, Tensor) and example.dim() == 4
    if isinstance(rule, TwoStreamRule) and not images:
        does = "writes labels into images" if rule.labelled else "mixes images"
        raise ValueError(
            f"{name_in(TABLE, rule)} {does}, and the example is none: choose a rule with one pass, such as projection."
        )
    inputs = _float(example) if images else example
    training = model.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with fed_tables(model, example) as fed:
            plain = _run(model.eval(), inputs)
        form = with_vocabulary(form, example, fed)
        walls, left_out, sizes, unreached = _walls(model, inputs, blocks, keep_head, rule.end_to_end)
        if heads == "own" and left_out.main is None:
            raise ValueError(
                "heads='own' needs a model whose output, or its entry logits, a linear layer gives, such as a causal "
                "language model."
            )
        own = left_out.main if heads == "own" else None
        each_position = rule.targets == "token"
        cuts = cuts_at(model, inputs, walls, channels, each_position, strict=blocks != "auto", scores=left_out.place)
        warn_of_several(left_out)
        _warn_of_a_large_block(model, cuts, sizes)
        modules = owners(model, unreached)
        if modules:
            warnings.warn(unreached_words(modules), UnreachedWarning, stacklevel=2)
        torch.manual_seed(seed)
        config = _config(source, cuts, rule, form, readout, images, own)
        if modules:
            config["unreached"] = modules
        network = Localized(model, cuts, rule, form, images=images, head=own, readout=readout, config=config)
        _check(network.walled.eval(), inputs, plain)
    if mean is not None and std is not None:
        network.prepare.take(mean, std)
    model.train(training)
    return network.train()


def unlocalize(network: Network) -> nn.Module:
    """The plain model in a network that `localize` made, with its weights as they are now.

    Raises:
        ValueError: the network was not made of a model.
    """
    if not isinstance(network, Localized):
        raise ValueError("This network has no model of its own: only what fo.localize made can be given back.")
    return network.model


def rebuilt(config: Mapping[str, Any], model: nn.Module | None = None) -> Localized:
    """The network that a config describes, around `model` or the model that the config names.

    Raises:
        ValueError: the config names no model that can be built, and none is given; or the model has other weights.
    """
    source = config["model"]
    if model is None:
        if source is None:
            raise ValueError(
                "The network was made of a model that only its own code builds: give it, as fo.load(folder, model=...)."
            )
        model = models.rebuilt(source)
    names = dict(model.named_parameters())
    cuts = []
    for cut in config["cuts"]:
        reading = Reading([Layout(**{"place": place, **layout}) for place, layout in enumerate(cut["read"])])
        missing = next((name for name in cut["weights"] if name not in names), None)
        if missing is not None:
            raise ValueError(f"The model has no weight {missing!r}, which the saved network has: it is another model.")
        cuts.append(Cut(cut["wall"], cut["weights"], reading, cut["shape"]))
    rule = rule_of(config["rule"])
    head, readout, images = config["head"], config["readout"], config["images"]
    network = Localized(model, cuts, rule, config["form"], images=images, head=head, readout=readout, config=config)
    if config["images"]:
        network.prepare.input = config.get("input")
        network.prepare.range = range_of(config)
    return network


def _require_open(model: nn.Module) -> None:
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            what = f"The model's part {name!r} is" if name else "The model is"
            raise ValueError(
                f"{what} a compiled ScriptModule, in which no wall can stand: give the module that it was made of."
            )


def _require_float32(model: nn.Module) -> None:
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.dtype != torch.float32:
            raise ValueError(
                f"The model's weights must be float32, but {name!r} is {str(weight.dtype).removeprefix('torch.')}: "
                "call model.float() before, and choose precision bf16 in training for half the bytes."
            )


def _float(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _run(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The tensors of the model's output.

    Raises:
        ValueError: it does not take such inputs.
    """
    try:
        with torch.no_grad():
            return [tensor.detach() for _, tensor in named_tensors(Walled(model, ())(inputs))]
    except Exception as problem:  # a model may raise anything
        sizes = sizes_of(inputs) or "without a tensor"
        raise ValueError(f"The model does not take the example {sizes}: {reason_of(problem)}.") from None


def _walls(
    model: nn.Module, inputs: Any, blocks: int | str | Sequence[str], keep_head: bool, end_to_end: bool
) -> tuple[list[Wall], Heads, Mapping[str, int], frozenset[str]]:
    """The walls of a model, which stand in evaluation and in training, what is left out as its head, how many
    numbers each trained weight has, and the weights that the inputs reach in neither mode."""
    evaluating = record(model.eval(), inputs)
    with unchanged(model):
        training = record(model.train(), inputs)
    model.eval()
    heads = heads_of(evaluating)
    if keep_head:
        heads = Heads(place=heads.place)
    evaluating = without(heads, evaluating)
    few = blocks if isinstance(blocks, int) and not isinstance(blocks, bool) else 0
    found = candidates(evaluating, few)
    if not found:
        beside = f" beside its head ({', '.join(map(repr, heads.layers))})" if heads.layers else ""
        raise ValueError(
            f"No wall can stand in the model: none of its modules with weights{beside} is called exactly once."
        )
    if end_to_end:
        blocks = 1
    names = _chosen(found, evaluating, blocks)
    walls = _standing(names, evaluating, training, strict=not isinstance(blocks, int) and blocks != "auto")
    while isinstance(blocks, int) and len(walls) < blocks < len(found):  # a skip may go around a wall that was chosen
        if len(fewer := _without_fallen(found, names, walls)) == len(found):
            break
        found = fewer
        names = _chosen(found, evaluating, blocks)
        walls = _standing(names, evaluating, training, strict=False)
    if len(walls) == 1 and blocks != 1:
        _, fallen = settle(list(evaluating.ends), evaluating)
        shared = next((_tied(weight, evaluating) for weight in fallen.values() if weight), "")
        raise ValueError(
            "No wall can stand inside the model, which leaves one block, trained by backprop: each block is to learn "
            f"from its own loss alone{', but ' + shared if shared else ''}. blocks=1 takes it so."
        )
    return walls, heads, evaluating.sizes, evaluating.unreached & training.unreached


def _warn_of_a_large_block(model: nn.Module, cuts: Sequence[Cut], sizes: Mapping[str, int]) -> None:
    named = dict(model.named_parameters())
    total = sum(named[name].numel() for cut in cuts for name in cut.weights)
    largest = max(cuts, key=lambda cut: sum(sizes[name] for name in cut.weights))
    share = sum(sizes[name] for name in largest.weights) / max(total, 1)
    if len(cuts) > 1 and share > TOO_LARGE:
        warnings.warn(
            f"The block behind {largest.wall!r} has {100 * share:.0f} % of the weights: most of the model "
            "learns by backprop.",
            LargeBlockWarning,
            stacklevel=3,
        )


def _chosen(found: Sequence[Wall], recording: Recording, blocks: int | str | Sequence[str]) -> list[str]:
    """Names of the walls that are asked for; the last one that was found is always among them."""
    order = list(recording.ends)
    if blocks == "auto":
        return [wall.name for wall in found]
    if isinstance(blocks, int):
        if not 1 <= blocks <= len(found):
            most = f"1 to {len(found)} blocks" if len(found) > 1 else "one block alone"
            raise ValueError(f"The model can be cut into {most}, not {blocks}.")
        return balanced(found, recording.sizes, blocks)
    if isinstance(blocks, str):
        wanted = regular_expression("blocks", blocks)
        names = [name for name in order if wanted.fullmatch(name)]
        if not names:
            raise ValueError(f"blocks {blocks!r} matches no module that the model calls once.")
    else:
        require("blocks", blocks, (list, tuple), "'auto', a number, a regular expression or a list of module names")
        names = list(blocks)
        for name in names:
            if name not in recording.modules:
                raise ValueError(f"The model has no module {name!r}: {nearest(name, recording.modules)}")
            if name in recording.left_out:
                raise ValueError(
                    f"No wall can stand behind {name!r}: the model's head is left out, unless keep_head=True."
                )
            if name not in recording.ends:
                raise ValueError(f"No wall can stand behind {name!r}: the model does not call it exactly once.")
    last = found[-1].name
    return sorted({*names, last}, key=order.index)


def _without_fallen(found: Sequence[Wall], names: Sequence[str], standing: Sequence[Wall]) -> list[Wall]:
    """The candidates without the first one of these names that does not stand; its weights are the next one's."""
    kept = {wall.name for wall in standing}
    for index, (wall, after) in enumerate(itertools.pairwise(found)):
        if wall.name in names and wall.name not in kept:
            return [*found[:index], Wall(after.name, (*wall.weights, *after.weights)), *found[index + 2 :]]
    return list(found)


def _tied(weight: str, recording: Recording) -> str:
    """In words, that two blocks reach a weight."""
    other = recording.others.get(weight)
    if other is None:
        return f"{weight!r} is used on both sides of it"
    return f"{weight!r} and {other!r} are one weight, used on both sides of it"


def _standing(names: Sequence[str], evaluating: Recording, training: Recording, strict: bool) -> list[Wall]:
    """The walls that stand in both modes. Each has the weights that its block reaches in either.

    Raises:
        ValueError: one that was asked for by name does not.
    """
    while True:
        walls, fallen = settle(names, evaluating)
        again, more = settle([wall.name for wall in walls], training)
        fallen = {**fallen, **more}
        if strict and fallen:
            name, weight = next(iter(fallen.items()))
            why = _tied(weight, evaluating) if weight else "no weight is before it"
            raise ValueError(f"No wall can stand behind {name!r}: {why}.")
        names = [wall.name for wall in again]
        if len(again) < len(walls):
            continue
        owners: dict[str, int] = {}
        clash = None
        for some in (walls, again):
            for index, wall in enumerate(some):
                for weight in set(wall.weights) - evaluating.frozen:
                    if owners.setdefault(weight, index) != index:
                        clash = min(owners[weight], index)
        if clash is None:
            found, taken = [], set[str]()
            for one, two in zip(walls, again, strict=True):
                own = {*one.weights, *two.weights} - taken
                taken |= own
                found.append(Wall(one.name, tuple(sorted(own))))
            return found
        names.pop(clash)


def _check(walled: Walled, inputs: Any, plain: Sequence[Tensor]) -> None:
    """Raises ValueError unless the model with walls gives what it gave without, to the bit, twice."""
    for _ in range(2):
        with torch.no_grad():
            output = walled.walk(inputs, lambda index, arrival: detached(arrival.signal), whole=True)
        if not same([tensor for _, tensor in named_tensors(output)], list(plain)):
            raise ValueError(
                "The model gives other outputs for the same inputs each time it runs, in evaluation too: it cannot be "
                "compared with itself, so it is not cut."
            )


def _config(
    source: Any, cuts: Sequence[Cut], rule: Rule, form: Form, readout: Kind, images: bool, head: str | None
) -> dict[str, Any]:
    return {
        "model": source,
        "cuts": [cut.describe() for cut in cuts],
        "shape": list(form.get("sizes", ())),
        "form": form,
        "images": images,
        "head": head,
        "rule": {"name": name_in(TABLE, rule), **rule.options()},
        "readout": readout,
    }
