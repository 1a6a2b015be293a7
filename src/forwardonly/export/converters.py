"""Exported programs as files: of PyTorch itself, of ONNX and of ExecuTorch, PyTorch's runtime for phones and boards."""

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from forwardonly.export.decompositions import attention

About = Mapping[str, str]
"""What a file says of itself, by key."""

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
TALKATIVE = ("torch.onnx", "torch.utils._pytree", "torchao")
"""Loggers with remarks on optional packages and on the converters' own code."""


def to_torch_export(program: ExportedProgram, about: About) -> bytes:
    """A file for `torch.export.load`, with `about` as the extra file about.json."""
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"about.json": json.dumps(about)})
    return content.getvalue()


def to_onnx(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], about: About) -> bytes:
    """An ONNX file, with `about` as metadata.

    Raises:
        ValueError: a package is missing.
    """
    try:
        import onnxscript  # noqa: F401  # what torch.onnx needs
    except ImportError:
        raise ValueError("ONNX files need more packages: pip install 'forward-only[onnx]'.") from None
    with _quiet(), sdpa_kernel(SDPBackend.MATH):  # attention as it was traced
        if any(node.target is ATTENTION and _axes(node.args[0]) != 4 for node in program.graph.nodes):
            program = program.run_decompositions({ATTENTION: attention})
        # Its optimiser drops Adam's epsilon of 1e-8 as if it were zero, which gives 0/0 (onnxscript 0.7.2).
        converted = torch.onnx.export(
            program, dynamo=True, optimize=False, input_names=inputs, output_names=outputs, verbose=False
        )
    assert converted is not None
    model = converted.model_proto
    _name_batch(model.graph)
    for of in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del of.metadata_props[:]  # where in our code it comes from, in as many bytes as small weights have
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def _axes(node: Any) -> int:
    """The number of axes of what a node of a graph gives."""
    return len(node.meta["val"].shape)


def with_int8_weights(content: bytes) -> bytes:
    """An ONNX file whose weights of at least two axes are int8, each times a scale for its index on the first axis.

    The scale is the largest magnitude there over 127, so that a weight is off by at most half of it. On the first axis
    of PyTorch's weights are the units of a layer, the channels of a convolution, and the classes of prototypes.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(content)
    graph, added = model.graph, []
    for tensor in list(graph.initializer):
        weights = numpy_helper.to_array(tensor)
        if weights.dtype != np.float32 or weights.ndim < 2:
            continue
        others = tuple(range(1, weights.ndim))
        scale = np.abs(weights).max(others) / 127
        scale[scale == 0] = 1
        rounded = np.rint(weights / scale.reshape(-1, *(1 for _ in others))).astype(np.int8)
        names = [f"{tensor.name}.int8", f"{tensor.name}.scale"]
        graph.initializer.remove(tensor)
        graph.initializer.extend(
            numpy_helper.from_array(of, name) for of, name in zip((rounded, scale), names, strict=True)
        )
        added.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=0))
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    whole: bytes = model.SerializeToString()
    return whole


def to_executorch(program: ExportedProgram, about: About, *, xnnpack: bool) -> bytes:
    """A file for ExecuTorch whose method `forward` is the program; a method for each entry of `about` returns its text.

    Inputs and outputs have an order and no names. With `xnnpack`, what XNNPACK can do runs there, which needs weights
    that are in the program; all else runs on ExecuTorch's portable kernels. The program has run once, on its example
    inputs, in the runtime that comes with the converter: some faults show only there.

    Raises:
        ValueError: a package is missing, the converter refuses the program, or the runtime cannot run it.
    """
    with _quiet():
        warnings.simplefilter("ignore", UserWarning)  # XNNPACK's passes look at the .grad of tensors that have none
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
        except ImportError:
            raise ValueError("ExecuTorch files need more packages: pip install 'forward-only[executorch]'.") from None
        partitioner = [XnnpackPartitioner()] if xnnpack else []
        try:
            lowered = to_edge_transform_and_lower(program, partitioner=partitioner, constant_methods=dict(about))
            content = bytes(lowered.to_executorch().buffer)
            loaded = executorch_program(content)
            loaded.load_method("forward").execute(tree_leaves(program.example_inputs))
        except Exception as problem:  # the converter raises errors of many kinds, bare Exceptions too
            reason = str(problem).strip().partition("\n")[0] or type(problem).__name__
            raise ValueError(f"ExecuTorch cannot hold this network: {reason}") from problem
    return content


def executorch_program(content: bytes) -> Any:
    """An ExecuTorch file in its runtime. Hold it as long as a method of it is in use: the method does not.

    Raises:
        RuntimeError: the file is damaged.
    """
    with _quiet():
        from executorch.runtime import Runtime

        return Runtime.get().load_program(content)


def _name_batch(graph: Any) -> None:
    """Calls the free axis of an ONNX graph `batch`, which the exporter names by a symbol of its own, such as s34."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    if not symbol:  # a training step has a batch of one size
        return
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(rf"\b{symbol}\b", "batch", axis.dim_param)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without the converters' remarks on optional packages, and without warnings of what is in their code."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
