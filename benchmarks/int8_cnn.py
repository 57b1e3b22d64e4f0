"""SmallCNN in integers beside its float self and ONNX Runtime's int8: time of one batch.

    python -m benchmarks.int8_cnn [--write]

One thread. Calls take turns, so that a busy machine slows all alike; ratios are of medians. ONNX
Runtime gets our own codes, biases, scales and zero points in its integer operators (QLinearConv,
MaxPool, QGemm), so that it computes the same network; how many logits differ is printed too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn

from benchmarks._runs import in_turns, wants_to_write
from qtools import ptq
from qtools.data import fashion_mnist, normalise
from qtools.metrics import accuracy, storage
from qtools.models import SmallCNN
from qtools.ptq.modules import Dequantize, IntegerConv2d, IntegerLinear, IntegerModule, Quantize
from qtools.results import write_record

BATCHES = (1, 256)
RESULT = Path(__file__).parent.parent / "results" / "benchmark_int8_cnn.json"


class _Graph:
    """Collects ONNX nodes and constants, one after another."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.last = "x"

    def constant(self, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, f"c{len(self.constants)}"))
        return f"c{len(self.constants) - 1}"

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> None:
        self.last = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [*inputs], [self.last], domain=domain, **attributes))

    def params(self, module: IntegerModule, name: str) -> tuple[str, str]:
        qp = module.qp(name)
        zero = qp.zero_point.to(qp.spec.dtype).numpy()
        return self.constant(qp.scale.numpy()), self.constant(zero)


def onnx_session(q: fx.GraphModule) -> onnxruntime.InferenceSession:
    """Return the integer network in ONNX Runtime's operators."""
    g = _Graph()
    for node in q.graph.nodes:
        module = q.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, Quantize):
            g.add("QuantizeLinear", g.last, *g.params(module, "output"))
        elif isinstance(module, Dequantize):
            g.add("DequantizeLinear", g.last, *g.params(module, "input"))
        elif isinstance(module, (IntegerConv2d, IntegerLinear)):
            w, b = g.constant(module.weight.numpy()), g.constant(module.bias.numpy())
            x, kernel, y = (g.params(module, name) for name in ("input", "weight", "output"))
            if isinstance(module, IntegerLinear):
                g.add("QGemm", g.last, *x, w, *kernel, b, *y, domain="com.microsoft", transB=1)
                continue
            window = module.window
            g.add("QLinearConv", g.last, *x, w, *kernel, *y, b, strides=window.stride,
                  pads=window.padding * 2)  # fmt: skip
            if module.pool is not None:
                g.add("MaxPool", g.last, kernel_shape=module.pool.kernel,
                      strides=module.pool.stride)  # fmt: skip
        elif node.op == "call_method":
            g.add("Flatten", g.last)
    return _session(g)


def float_session(network: nn.Module) -> onnxruntime.InferenceSession:
    """Return a float network of SmallCNN's layers, of any width, in ONNX Runtime's operators."""
    m, g = ptq.fold_batch_norm(network), _Graph()
    for name in ("conv1", "conv2", "conv3", "fc1", "fc2"):
        layer = m.get_submodule(name)
        w, b = (g.constant(layer.get_parameter(p).detach().numpy()) for p in ("weight", "bias"))
        if isinstance(layer, nn.Conv2d):
            g.add("Conv", g.last, w, b, pads=[1] * 4)
            g.add("Relu", g.last)
            g.add("MaxPool", g.last, kernel_shape=[2, 2], strides=[2, 2])
            continue
        if name == "fc1":
            g.add("Flatten", g.last)
        g.add("Gemm", g.last, w, b, transB=1)
        if name == "fc1":
            g.add("Relu", g.last)
    return _session(g)


def _session(g: _Graph) -> onnxruntime.InferenceSession:
    """Return what runs the graph, on one thread."""
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        g.nodes, "smallcnn",
        [helper.make_tensor_value_info("x", kind, ["n", 1, 28, 28])],
        [helper.make_tensor_value_info(g.last, kind, ["n", 10])],
        g.constants,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Without VNNI its kernel for signed weights saturates; this makes it take the exact one.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def networks() -> tuple[SmallCNN, fx.GraphModule, Tensor, Tensor]:
    """Float and integer SmallCNN, the test images and their labels."""
    data = fashion_mnist()
    m = SmallCNN.pretrained()
    p = ptq.calibrate(ptq.prepare(m), normalise(data.train_images[:1000]).split(250))
    return m, ptq.convert(p), normalise(data.test_images), data.test_labels


@torch.inference_mode()
def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    m, q, images, labels = networks()
    session = onnx_session(q)
    theirs = torch.from_numpy(session.run(None, {"x": images[:1000].numpy()})[0])
    step = float(q.get_submodule("fc2").qp("output").scale)  # type: ignore[operator]
    apart = ((q(images[:1000]) - theirs) / step).round().abs()
    print(f"logits that differ from ONNX Runtime's: {float((apart > 0).float().mean()):.2%}, by at"
          f" most {int(apart.max())} codes")  # fmt: skip
    print(f"{'batch':>5}  {'network':14}{'median ms':>10}{'min ms':>9}{'/ float':>9}")
    for batch in BATCHES:
        x = images[:batch].contiguous()
        x_numpy = x.numpy()
        calls: dict[str, Callable[[], object]] = {
            "float": lambda x=x: m(x),  # type: ignore[misc]
            "integer": lambda x=x: q(x),  # type: ignore[misc]
            "ONNX Runtime": lambda x=x_numpy: session.run(None, {"x": x}),  # type: ignore[misc]
        }
        found = in_turns(calls, 400 if batch == 1 else 40, warmup=5)
        for name, taken in found.items():
            time_ms = {"median_ms": taken.median * 1e3, "minimum_ms": taken.minimum * 1e3}
            ratio = taken.median / found["float"].median
            rows.append({"batch": batch, "network": name, **time_ms, "ratio": ratio})
            print(f"{batch:>5}  {name:14}{time_ms['median_ms']:>10.3f}"
                  f"{time_ms['minimum_ms']:>9.3f}{ratio:>9.2f}", flush=True)  # fmt: skip
    if write:
        with tempfile.TemporaryDirectory() as folder:
            size = ptq.save(q, Path(folder) / "smallcnn.safetensors")
        write_record(
            RESULT,
            value=max(row["ratio"] for row in rows if row["network"] == "integer"),
            unit="largest ratio of the integer network's median time to the float one's",
            command="python -m benchmarks.int8_cnn --write",
            seconds=time.perf_counter() - start,
            accuracy={
                "float": accuracy(m, images, labels).value,
                "integer": accuracy(q, images, labels).value,
            },
            file_bytes={"float": storage(m.state_dict()).file_bytes, "integer": size.file_bytes},
            rows=rows,
        )


if __name__ == "__main__":
    main()
