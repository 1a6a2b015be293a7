"""How many token ids a network knows: those of the embedding that is fed with its input."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from forwardonly.network.block import Block
from forwardonly.network.prepare import Form
from forwardonly.network.signal import tensors_in

Tables = nn.Embedding | nn.EmbeddingBag
Fed = list[tuple[Tensor, int]]
"""What embeddings were fed with, and how many ids they have."""


def ids_of(block: Block) -> dict[str, Any]:
    """Whether a network whose first block this is takes `tokens`, and its `vocabulary` where the body begins
    with an embedding.
    """
    tokens = any(isinstance(part, Tables) for part in block.modules())
    first: nn.Module = block.body
    while isinstance(first, nn.Sequential) and len(first):
        first = first[0]
    return {"tokens": tokens, "vocabulary": first.num_embeddings if isinstance(first, Tables) else None}


@contextmanager
def fed_tables(model: nn.Module, example: Any) -> Iterator[Fed]:
    """A context in which a model runs on an example; gives what of it goes into embeddings whole and unchanged."""
    fed: Fed = []
    before = [(tensor, tensor._version) for tensor in tensors_in(example)]

    def seen(table: nn.Module, given: tuple[Any, ...]) -> None:
        ids = given[0] if given else None
        if isinstance(ids, Tensor) and isinstance(table, Tables):
            place = ids.untyped_storage().data_ptr()
            fed.extend(
                (own, table.num_embeddings)
                for own, version in before
                if place == own.untyped_storage().data_ptr()
                and ids.numel() == own.numel()  # a column of it is another matter: each may have a table of its own
                and version == own._version  # not written into since, as by clamp_
            )

    handles = [part.register_forward_pre_hook(seen) for part in model.modules() if isinstance(part, Tables)]
    try:
        yield fed
    finally:
        for handle in handles:
            handle.remove()


def with_vocabulary(form: Form, example: Any, fed: Fed) -> Form:
    """The form of an example, in which each tensor of token ids has the "vocabulary" that the model has for it."""
    if "parts" not in form:
        known = [count for tensor, count in fed if tensor is example]
        return {**form, "vocabulary": min(known)} if known else form
    parts = form["parts"]
    if isinstance(parts, Mapping):
        named = {str(name): part for name, part in example.items()}
        return {"parts": {name: with_vocabulary(part, named[name], fed) for name, part in parts.items()}}
    return {"parts": [with_vocabulary(part, own, fed) for part, own in zip(parts, example, strict=True)]}
