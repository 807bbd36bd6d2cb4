"""Float weights of a quantized TensorFlow Lite classifier, in the order of its convolutions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def convolutions(path: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight (out, in / groups, h, w) and bias (out,) of every convolution in a file, dequantized.

    Args:
        path: a `.tflite` file whose weights have a scale for the tensor or for each output channel.
    """
    import tflite

    model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    dense, depthwise = tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOperator.DEPTHWISE_CONV_2D
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind in (dense, depthwise):
            _, weight, bias = (graph.Tensors(int(tensor)) for tensor in operator.InputsAsNumpy())
            # A dense kernel is (out, h, w, in), a depthwise one (1, h, w, out).
            order = (0, 3, 1, 2) if kind == dense else (3, 0, 1, 2)
            yield _float(model, weight, 0 if kind == dense else 3).permute(order).contiguous(), _float(model, bias, 0)


def _float(model: Any, tensor: Any, axis: int) -> Tensor:
    """A quantized tensor as (q - zero) * scale; several scales lie along `axis`."""
    import tflite

    kinds = {tflite.TensorType.UINT8: np.uint8, tflite.TensorType.INT8: np.int8, tflite.TensorType.INT32: np.int32}
    raw = np.frombuffer(model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes(), kinds[tensor.Type()])
    values = raw.reshape(tensor.ShapeAsNumpy()).astype(np.float64)
    along = [1] * values.ndim
    along[axis] = -1
    quantization = tensor.Quantization()
    zero, scale = (part.reshape(along) for part in (quantization.ZeroPointAsNumpy(), quantization.ScaleAsNumpy()))
    return torch.from_numpy((values - zero) * scale).float()
