"""The service: GET / (a page), GET /health, GET /model, POST /predict with image files or JSON.

Shapes: L blocks, B batch, C classes.
"""

import importlib.resources
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from torch import Tensor

from forwardonly.data import InMemory, read_adapted
from forwardonly.data.targets import Names
from forwardonly.names import require
from forwardonly.network.answers import answers
from forwardonly.network.network import Network, require_network
from forwardonly.serve.limits import BodyLimit
from forwardonly.targets import OBJECTIVES
from forwardonly.version import __version__

# The page is self-contained, so the browser may load nothing else.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Limits:
    """Limits of a request."""

    images: int = 32
    body_bytes: int = 10 * 2**20
    pixels: int = 20_000_000
    seconds: float = 30.0
    """Time in which the whole request must be there."""


def make_app(network: Network, classes: Sequence[str], *, name: str, limits: Limits | None = None) -> FastAPI:
    """The ASGI application around a network whose classes, labels or numbers have these names; `name` is its title.

    Raises:
        ValueError: a network that cannot be asked with images of bytes, or learns without labels or tokens; or not one
            name for each of its outputs.
    """
    require_network(network)
    network.require_classes()
    classes = _names_for(network, classes)
    limits = limits or Limits()
    network = network.eval()
    _require_answers(network)
    turn = threading.Lock()  # one batch at a time; two would only share the processor
    app = FastAPI(title=f"forwardonly: {name}", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, limit=limits.body_bytes, seconds=limits.seconds)
    page = importlib.resources.files("forwardonly.serve").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/")
    def index() -> Response:
        headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}
        return Response(page, media_type="text/html", headers=headers)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/model")
    def model() -> dict[str, Any]:
        return {
            "name": name,
            "targets": network.targets,
            "classes": list(classes),
            "shape": list(network.shape),
            "blocks": len(network.row),
            "rule": network.config.get("rule", {}).get("name"),
            "limits": {"images": limits.images, "body_bytes": limits.body_bytes, "pixels": limits.pixels},
        }

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if kind == "application/json":
                images, changes = await run_in_threadpool(from_json, await _json(request), network.shape, limits)
            elif kind == "multipart/form-data":
                files = await _files(request, limits)
                images, changes = await run_in_threadpool(from_files, files, network.shape, limits)
            else:
                raise HTTPException(415, "Send application/json, or image files as multipart/form-data.")
        except ValueError as problem:
            raise HTTPException(400, str(problem)) from None

        def answer() -> dict[str, Any]:
            with turn:
                return describe(network, images, classes, changes)

        return await run_in_threadpool(answer)

    return app


def from_files(files: Sequence[InMemory], shape: Sequence[int], limits: Limits) -> tuple[Tensor, list[str]]:
    """Uploaded images as the network takes them, and a note of what was changed in each.

    Raises:
        ValueError: no or too many images, one with too many pixels, or one that is not an image.
    """
    if not 1 <= len(files) <= limits.images:
        raise ValueError(f"Send 1 to {limits.images} images in a request, not {len(files)}.")
    channels, height, width = shape
    return read_adapted(files, (channels, height, width), most_pixels=limits.pixels)


def from_json(content: Any, shape: Sequence[int], limits: Limits) -> tuple[Tensor, list[str]]:
    """`{"images": [...]}`, pixels as whole numbers from 0 to 255, as a uint8 tensor (B, channels, height, width).

    Grey images may be (B, height, width).

    Raises:
        ValueError: any other content.
    """
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError('The JSON must be {"images": [...]}, a list of images.')
    if not 1 <= len(content["images"]) <= limits.images:
        raise ValueError(f"Send 1 to {limits.images} images in a request, not {len(content['images'])}.")
    want = " x ".join(map(str, shape))
    sizes = [tuple(shape), tuple(shape)[1:]] if shape[0] == 1 else [tuple(shape)]
    # first, as numpy makes a gigabyte of 32 strings of which one has ten megabytes
    if not any(all(_is_of(image, size) for image in content["images"]) for size in sizes):
        raise ValueError(f"Every image must be {want} whole numbers (channels, height, width).")
    try:
        pixels = np.array(content["images"], dtype=np.int64).reshape(-1, *shape)
    except OverflowError:
        raise ValueError("Pixels must be whole numbers from 0 to 255.") from None
    if pixels.min() < 0 or pixels.max() > 255:
        raise ValueError("Pixels must be whole numbers from 0 to 255.")
    return torch.from_numpy(pixels.astype(np.uint8)), [""] * len(pixels)


def _is_of(content: Any, size: Sequence[int]) -> bool:
    """Whether nested lists have this size and whole numbers in them."""
    if not isinstance(content, list) or len(content) != size[0]:
        return False
    return set(map(type, content)) <= {int} if len(size) == 1 else all(_is_of(each, size[1:]) for each in content)


def _names_for(network: Network, classes: Sequence[str]) -> tuple[str, ...]:
    """The names of a network's outputs.

    Raises:
        ValueError: they are none, fewer or more than the outputs, or two are alike.
    """
    require("classes", classes, Sequence, "the names of the network's classes, such as network.class_names")
    names = Names(classes).names or ()
    if len(names) != network.classes:
        raise ValueError(
            f"The network learns {OBJECTIVES[network.targets].words}, {network.classes} of them, but classes has "
            f"{len(names)}: give one name for each, such as network.class_names."
        )
    return names


def _require_answers(network: Network) -> None:
    """Raises ValueError unless a network can be asked as the service asks it; it is tried on an image without content.

    Else every request would fail.
    """
    if network.targets == "token":
        raise ValueError("The service says classes, labels or numbers, and this network learns tokens.")
    if len(network.shape) != 3:
        raise ValueError("The service is for images, and this network takes none: ask it by network.predict.")
    try:
        with torch.no_grad():
            network.scores(torch.zeros(1, *network.shape, dtype=torch.uint8))
    except ValueError as problem:
        raise ValueError(
            f"The service gives networks bytes of images, which this one does not take: {problem}"
        ) from None


def describe(network: Network, images: Tensor, classes: Sequence[str], changes: Sequence[str]) -> dict[str, Any]:
    """For each image what the network says (`answers`), and each block's scores and what it would say by itself."""
    with torch.no_grad():
        scores = network.scores(images)
        said = answers(network, scores, classes)
    scores = scores.cpu()
    predictions = [
        {
            **own,
            "blocks": [_block(network, scores[block, index], classes) for block in range(len(scores))],
            "changes": changes[index],
        }
        for index, own in enumerate(said)
    ]
    return {"classes": list(classes), "predictions": predictions}


def _block(network: Network, scores: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """A block's scores (C,), and its own class, or the labels that it says are present."""
    own: dict[str, Any] = {"scores": scores.tolist()}
    if network.targets == "number":
        return own
    said = OBJECTIVES[network.targets].predict(scores)
    if network.targets == "labels":
        return {"labels": [name for name, is_there in zip(classes, said.tolist(), strict=True) if is_there], **own}
    return {"class": classes[int(said)], **own}


async def _json(request: Request) -> Any:
    try:
        return await request.json()
    except (ValueError, RecursionError):
        raise ValueError("The body is not JSON.") from None


async def _files(request: Request, limits: Limits) -> list[InMemory]:
    """The uploaded files, whatever the names of their fields."""
    async with request.form(max_files=limits.images, max_fields=10) as form:
        parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        return [InMemory(part.filename or f"image {k + 1}", await part.read()) for k, part in enumerate(parts)]
