"""Training steps on a GPU that is not there; run by `test_fake_gpu.py` in a process of its own.

Under PyTorch's FakeTensorMode a tensor has a device but no values, and an operation on two devices is an error. Fake
tensors on `cuda` are no use in a build without CUDA: autograd aborts on them. So the device here is PyTorch's slot for
a backend in Python, PrivateUse1, under the name `gpu`; what makes a device known is global, hence the process.

Stand-ins, as fake tensors have no values: generators are CPU ones that remember their device, fitting the preparation
does nothing, the highest pixel is 1, no weights are all zero. Two faults that fake tensors let pass are errors here: a
generator of another device than the operation, and indices on the GPU into a tensor on the CPU. Autocast converts
products and convolutions.
"""

import contextlib
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import forwardonly as fo
from forwardonly import training
from forwardonly.measure.probe import features
from forwardonly.network.prepare import Prepare
from forwardonly.training import Team, TrainingConfig, online, strategies
from forwardonly.training.memory.budget import MemoryPlan
from forwardonly.training.optim import groups
from forwardonly.training.progress import Position
from forwardonly.training.session import open_session

CLASSES, COUNT, BATCH = 4, 24, 8
BODIES: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (9, 9)},
    "cnn": {"width": 0.1},
    "conv": {"depth": 2, "channels": 8},
    "six": {"width": 0.1},
    "vgg8b": {"width": 0.1},
    "tinycnn": {"width": 0.1},
    "resnet17": {"width": 0.1},
    "resnet18": {"width": 0.1},
    "resnet56": {"width": 0.25, "walls": 5},
    "transformer": {},
    "separable": {"channels": (8, 8)},
}
LOWERED = ("linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "conv2d")


class Module(backend_registration._DummyBackendModule):  # type: ignore[misc]
    """What torch asks of a backend."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(1)


def register() -> torch.device:
    """Makes the device known to torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend_registration._setup_privateuseone_for_python_backend("gpu", backend_module=Module())
        library = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
        for name in LOWERED:
            library.impl(name, lowered(getattr(torch.ops.aten, name)))
        others = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
        others.fallback(torch.library.fallthrough_kernel)
    register.libraries = library, others  # type: ignore[attr-defined]  # they unregister when they die
    return torch.device("gpu", 0)


def lowered(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation with its float32 tensors converted, as autocast does."""

    def convert(value: Any) -> Any:
        wide = isinstance(value, Tensor) and value.dtype == torch.float32 and value.device.type == "gpu"
        return value.to(torch.get_autocast_dtype("gpu")) if wide else value

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return operation(*map(convert, args), **{name: convert(value) for name, value in kwargs.items()})

    return run


class Strict(TorchDispatchMode):
    """Refuses what a GPU would and fake tensors do not; notes the types that products on the GPU end with."""

    def __init__(self) -> None:
        super().__init__()
        self.products: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket == torch.ops.aten._fused_sgd_:  # it works in place, and has no fake kernel
            homes = {leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            if len(homes) > 1:
                raise RuntimeError(f"{func}: tensors on {homes}")
            return None
        result = func(*args, **kwargs)
        devices = {leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        generator = kwargs.get("generator")
        if generator is not None and devices != {DEVICES[generator.initial_seed()].type}:
            raise RuntimeError(f"{func}: a generator of another device for a tensor on {devices}")
        if func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
            indices = {index.device.type for index in args[1] if index is not None}
            if args[0].device.type == "cpu" and indices - {"cpu"}:
                raise RuntimeError(f"{func}: indices on {indices} into a tensor on the CPU")
        if func.overloadpacket in (torch.ops.aten.addmm, torch.ops.aten.mm, torch.ops.aten.convolution):
            self.products.add(result.dtype)
        return result


DEVICES: list[torch.device] = []  # the seed of a generator is the place here of the device that it stands for


class Generator(torch.Generator):
    """A CPU generator that says it is of another device."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICES[self.initial_seed()]


def generator_at(device: torch.device, seed: int, *position: int) -> torch.Generator:
    """A CPU generator that counts as one of the device."""
    DEVICES.append(device)
    generator = Generator()
    generator.manual_seed(len(DEVICES) - 1)
    return generator


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Replaces what reads values."""
    training.feed.generator_at = online.generator_at = generator_at  # type: ignore[attr-defined]
    Prepare.fit = lambda self, images: None  # type: ignore[method-assign]
    Prepare.high = property(lambda self: 1.0)  # type: ignore[assignment,method-assign]
    groups.any_weight = lambda parameter: True
    fo.data.Images.__post_init__ = lambda self: None  # type: ignore[method-assign]
    make = torch.tensor
    torch.tensor = lambda data, *, device=None, **more: (  # type: ignore[assignment]
        make(data, **more) if device is None else make(data, **more).to(device)
    )
    yield


def move(module: nn.Module, device: torch.device, fake: FakeTensorMode) -> None:
    """Replaces a real module's tensors by fake ones on the device."""

    def on_device(tensor: Tensor) -> Tensor:
        copy = fake.from_tensor(tensor.data)
        with fake:
            return copy.to(device)

    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = nn.Parameter(on_device(parameter), parameter.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = on_device(buffer)


def pictures(shape: tuple[int, int, int]) -> fo.data.Images:
    images = torch.randint(0, 256, (COUNT, *shape), dtype=torch.uint8)
    return fo.data.Images(images, torch.arange(COUNT) % CLASSES, tuple("abcd"), "random")


def step(rule: str, body: str, options: dict[str, Any], device: torch.device, fake: FakeTensorMode) -> None:
    """One step of every block, evaluation, and one online step; raises where a tensor is on the wrong device."""
    options = dict(options)
    shape = (3, 32, 32) if body == "vgg8b" else (3, 16, 16)
    made = fo.rules.make(rule, classes=CLASSES, **options.pop("rule", {}))
    network = fo.build(fo.bodies.TABLE[body](**BODIES[body]), shape, rule=made)
    micro_batch = options.pop("micro_batch", None)
    config = TrainingConfig.resolve(made, None, {"epochs": 1, "batch_size": BATCH, "precision": "fp32", **options})
    move(network, device, fake)
    network.train()
    with fake, Strict() as strict:
        session = open_session(network, pictures(shape), config, device, 0, Team(), BATCH)
        strategy = strategies.choose(session)
        with MemoryPlan(micro_batch).applied(session, slice(0, None), None):
            for phase in range(strategy.phases):
                order = session.feed.order(phase, 0)
                position = Position(phase, 0, 0, session.schedule.steps - 1, False)
                with strategy.epoch(position):
                    losses = strategy.step(order[:BATCH], position)
            strategy.finish()
        if network.labelled:
            scores = network.scores(session.images.images[:BATCH])
            network(session.images.images[:BATCH].cpu())  # a caller's images may be on the host
        else:
            some = session.images.images[:BATCH].cpu()
            scores = features(network, some, blocks="all", grid=1, batch_size=BATCH, precision="fp32")
        if (config.precision == "bf16") != (torch.bfloat16 in strict.products):
            raise RuntimeError(f"under {config.precision} products are in {strict.products}")
        for tensor in (losses, scores, *network.parameters(), *network.buffers()):
            if tensor.device != device:
                raise RuntimeError(f"a result or weight ended on {tensor.device}")
        for update in session.updates:
            for optimiser in update.optimisers:
                for own in optimiser.state.values():
                    for name, slot in own.items():
                        if isinstance(slot, Tensor) and slot.device != device and slot.dim():
                            raise RuntimeError(f"optimiser state {name} is on {slot.device}")


SCHEDULES = ("simultaneous", "greedy")
MORE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bf16": ("projection", "conv", {"precision": "bf16"}),
    "bf16, two streams": ("hyperspherical", "mlp", {"precision": "bf16"}),
    "augmented": ("auxiliary", "conv", {"crop": 2, "flip": "random", "cutout": 3}),
    "alternating flip": ("auxiliary", "conv", {"flip": "alternating"}),
    "micro-batches": ("projection", "conv", {"micro_batch": 3}),
    "muon, clipped": ("auxiliary", "conv", {"optimiser": "muon", "clip": 1.0}),
    "sgd": ("projection", "mlp", {"optimiser": "sgd"}),
    "hard negatives": ("cff-fixed", "mlp", {"rule": {"negatives": "hard"}}),
    "fixed negatives, cached": ("ff", "mlp", {"rule": {"negatives": "fixed"}, "schedule": "greedy"}),
}


def cases(kind: str) -> Iterator[tuple[str, tuple[str, str, dict[str, Any]]]]:
    """All combinations, or a few in which every rule and schedule is once."""
    rules, bodies = list(fo.rules.TABLE), list(fo.bodies.TABLE)
    quick = [*["mlp", "conv"] * 3, "six", "resnet17", "cnn"]
    some = [(rule, quick[index % len(quick)], SCHEDULES[index // 2 % 2]) for index, rule in enumerate(rules)]
    for rule, body, schedule in some if kind == "few" else product(rules, bodies, SCHEDULES):
        yield f"{rule} {body} {schedule}", (rule, body, {"schedule": schedule})
    yield from MORE.items()


def main() -> None:
    device = register()
    seen: dict[str, str] = {}
    with without_values():
        for name, (rule, body, options) in cases(sys.argv[1]):
            try:
                step(rule, body, options, device, FakeTensorMode(allow_non_fake_inputs=False))
                seen[name] = "ok"
            except Exception as problem:
                frames = traceback.extract_tb(problem.__traceback__)
                at = [f"{frame.filename}:{frame.lineno}" for frame in frames if "src/forwardonly" in frame.filename]
                seen[name] = f"{type(problem).__name__}: {str(problem).splitlines()[0][:300]} at {at[-1:]}"
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
