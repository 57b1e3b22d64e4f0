"""What `benchmarks.sign_matmul` compares: a ring of matrices for each method, and two writers."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._runs import in_turns
from qtools import kernels
from qtools.evaluation import one_bit
from qtools.kernels.bits import row_bytes
from qtools.models import WEIGHTS, CharGPT
from qtools.onebit import PackedOneBitLinear

GROUP = 32  # weights that share a scale in ONNX Runtime's matrices


def last_cache() -> int:
    """Bytes of the largest cache, 32 MiB where Linux does not tell."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        number = file.read_text().strip()
        sizes.append(int(number[:-1]) * {"K": 1 << 10, "M": 1 << 20}[number[-1]])
    return max(sizes, default=32 << 20)


LAST_CACHE = last_cache()


class Product(NamedTuple):
    """A method with its matrices: call(i, x) multiplies x [batch, columns] by the i-th."""

    name: str
    bits: int
    matrices: int
    call: Callable[[int, Tensor], Any]

    def __call__(self, i: int, x: Tensor) -> Any:
        """Multiply."""
        return self.call(i, x)


def ring(rows: int, columns: int, bits: int) -> int:
    """How many matrices are at least one and a half times the last cache."""
    return math.ceil(1.5 * LAST_CACHE / (rows * columns * bits / 8))


def dense(dtype: torch.dtype, name: str, bits: int) -> Callable[[int, int, int], Product]:
    """Torch's own product."""

    def make(rows: int, columns: int, threads: int) -> Product:
        count = ring(rows, columns, bits)
        weights = [torch.randn(rows, columns).to(dtype) for _ in range(count)]
        return Product(name, bits, count, lambda i, x: F.linear(x.to(dtype), weights[i]))

    return make


def int8_dynamic(rows: int, columns: int, threads: int) -> Product:
    """Torch's dynamic quantization: int8 weights, the input rounded to int8 at each call."""
    count = ring(rows, columns, 8)
    layers = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(count):
            layer = nn.Sequential(nn.Linear(columns, rows, bias=False))
            layers.append(torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}))
    return Product("int8 dynamic", 8, count, lambda i, x: layers[i](x))


def onnx_runtime(bits: int) -> Callable[[int, int, int], Product | None]:
    """ONNX Runtime's MatMulNBits, activations in int8 where it likes (accuracy_level 4)."""

    def make(rows: int, columns: int, threads: int) -> Product | None:
        try:
            import onnxruntime
            from onnx import TensorProto, helper, numpy_helper
        except ImportError:
            return None
        count = ring(rows, columns, bits)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        groups = columns // GROUP
        codes = torch.randint(0, 256, (rows, groups, GROUP * bits // 8), dtype=torch.uint8)
        scales = torch.rand(rows * groups)
        node = helper.make_node(
            "MatMulNBits", ["x", "B", "scales"], ["y"], domain="com.microsoft",
            K=columns, N=rows, bits=bits, block_size=GROUP, accuracy_level=4,
        )  # fmt: skip
        graph = helper.make_graph(
            [node], "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", columns])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", rows])],
            [numpy_helper.from_array(codes.numpy(), "B"),
             numpy_helper.from_array(scales.numpy(), "scales")],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
        sessions = [
            onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
            for _ in range(count)
        ]

        def call(i: int, x: Tensor) -> Any:
            return sessions[i].run(None, {"x": x.numpy()})

        return Product(f"onnxruntime {bits} bits", bits, count, call)

    return make


def ours(path: str) -> Callable[[int, int, int], Product | None]:
    """A path of `qtools.kernels`, with vectors as in a packed layer."""

    def make(rows: int, columns: int, threads: int) -> Product | None:
        if path not in kernels.info().available:
            return None
        count = ring(rows, columns, 1)
        shape = (rows, row_bytes(columns))
        bits = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(count)]
        g, h = torch.randn(columns).half(), torch.randn(rows).half()

        def call(i: int, x: Tensor) -> Tensor:
            with kernels.use(path):
                return kernels.onebit_linear(x, bits[i], g, h)

        def chosen(i: int, x: Tensor) -> Tensor:  # as users call it: nothing is forced
            return kernels.onebit_linear(x, bits[i], g, h)

        if path == kernels.info().path:
            return Product(path, 1, count, chosen)
        # Plain torch unpacks into memory whatever the cache holds: two matrices are enough.
        plain = path in ("reference", "table")
        return Product(path, 1, min(2, count) if plain else count, call)

    return make


METHODS: tuple[Callable[[int, int, int], Product | None], ...] = (
    dense(torch.float32, "float32", 32),
    dense(torch.bfloat16, "bfloat16", 16),
    int8_dynamic,
    onnx_runtime(4),
    onnx_runtime(2),
    *(ours(path) for path in kernels.paths.PATHS if path != "triton"),
)


def random_twins(width: int, layers: int) -> tuple[CharGPT, CharGPT]:
    """A float32 model and the same with packed layers of random signs."""
    floats = CharGPT("abcdefghijklmnopqrstuvwxyz ", width, layers, width // 64, 256, 0.0).eval()
    packed = copy.deepcopy(floats)
    for block in packed.blocks:
        for name, layer in block.named_children():
            if isinstance(layer, nn.Linear):
                m, n = layer.weight.shape
                bits = torch.randint(0, 256, (m, row_bytes(n)), dtype=torch.uint8)
                g, h = torch.full((n,), n**-0.5).half(), torch.ones(m).half()
                setattr(block, name, PackedOneBitLinear(bits, g, h))
    return floats, packed


def tokens_per_second(models: tuple[CharGPT, CharGPT], length: int, turns: int) -> list[float]:
    """Medians of models that take turns; one beginning, one thread, the likeliest characters."""
    begin = torch.zeros(1, 1, dtype=torch.int64)
    calls = {
        str(i): partial(model.generate, begin, length, temperature=0.0)
        for i, model in enumerate(models)
    }
    with torch.inference_mode():
        return [length / taken.median for taken in in_turns(calls, turns, warmup=1).values()]


def generation(small: bool) -> list[dict[str, Any]]:
    """How fast models write, in float32 and with packed layers."""

    def pairs() -> Iterator[tuple[str, tuple[CharGPT, CharGPT], int]]:
        student = one_bit(WEIGHTS / "chargpt_onebit.safetensors")
        yield "CharGPT", (CharGPT.pretrained(), student), 200
        width, layers = (1024, 2) if small else (4096, 2)
        yield "random signs", random_twins(width, layers), 24

    found = []
    for name, models, length in pairs():
        floats, packed = tokens_per_second(models, length, 5)
        signs = sum(
            m.in_features * m.out_features
            for m in models[1].modules()
            if isinstance(m, PackedOneBitLinear)
        )
        found.append(
            {
                "model": name,
                "width": models[0].settings["width"],
                "layers": models[0].settings["layers"],
                "parameters": signs,
                "float32_tokens_per_s": round(floats, 2),
                "onebit_tokens_per_s": round(packed, 2),
                "ratio": round(packed / floats, 3),
            }
        )
    return found
