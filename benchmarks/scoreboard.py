"""Bytes and milliseconds of the book's networks, all in one run: what the scoreboard is short of.

    python -m benchmarks.scoreboard [--write]

Size and speed depend on a network's layers, bits and shapes, not on how well it was trained. So the
networks are built anew, with as little calibration as will do, written to files, and timed.
Those of SmallCNN take turns, on one image and on 64; those of CharGPT take turns at writing a
character, with keys and values kept. One thread, median and minimum. Networks in integers, and
float ones whose layers are SmallCNN's, run in ONNX Runtime as well, where integers have kernels
that are made for them: ``ort_ms`` beside ``ms``.

Pruned weights are written as a bitmap and the values that are left (`pruning.Bitmap`); they are
timed as what they are when they run, a dense network with zeros in it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import low_rank_cnn, pipeline_smallcnn, pruning_cnn
from benchmarks._runs import in_turns, wants_to_write
from benchmarks.int8_cnn import float_session, onnx_session
from qtools import QuantSpec, evaluation, metrics, pruning, ptq
from qtools.data import fashion_mnist, normalise
from qtools.models import CharGPT, SmallCNN
from qtools.ptq.modules import IntegerModule
from qtools.results import code_state, write_record
from qtools.weight_only import quantize_weights

RESULT = Path(__file__).parent.parent / "results" / "scoreboard.json"
BITS, BATCH, STUDENT = (8, 6, 4, 3, 2), 64, 0.25
ROUNDS, WARMUP = {"image": 200, "batch": 9, "character": 100}, 2

#: A network by name, what it is, and the bytes of its file.
Named = Iterator[tuple[str, nn.Module, int]]


def file_bytes(tensors: Mapping[str, Tensor | metrics.Packed]) -> int:
    """Bytes of the file that `metrics.save` writes."""
    return metrics.storage(tensors).file_bytes


def quantized_bytes(network: nn.Module) -> int:
    """Bytes of the file that `ptq.save` writes."""
    with tempfile.TemporaryDirectory() as folder:
        return ptq.save(network, Path(folder) / "network.safetensors").file_bytes


def integer(
    network: nn.Module, weights: int, granularity: Any = "channel"
) -> tuple[nn.Module, int]:
    """Return a network in integers, activations of 8 bits, and the bytes of its file."""
    recipe = ptq.Recipe(
        QuantSpec(weights, symmetric=True, granularity=granularity), QuantSpec(8, signed=False)
    )
    q = ptq.convert(ptq.calibrate(ptq.prepare(network, recipe), [images(64)]))
    return q, quantized_bytes(q)


def images(count: int) -> Tensor:
    """So many training images."""
    return normalise(fashion_mnist().train_images[:count])


def image_networks() -> Named:
    """Every shape of SmallCNN that has a row."""
    whole = SmallCNN.pretrained()
    yield "float", whole, file_bytes(dict(whole.state_dict()))
    for granularity in ("channel", "tensor"):
        for weights in BITS:
            yield f"W{weights} {granularity}", *integer(whole, weights, granularity)
    dynamic = ptq.quantize_dynamic(whole)
    yield "dynamic", dynamic, quantized_bytes(dynamic)
    channels = pruning_cnn.smaller(whole, 0.5)
    yield "channels", channels, file_bytes(dict(channels.state_dict()))
    for share in pruning_cnn.SHARES:
        zeros = pruning_cnn.one_shot("magnitude", share, {n: None for n in pruning_cnn.LAYERS})  # type: ignore[misc]
        yield f"zeros {share}", zeros, file_bytes(sparse(zeros))
    student = SmallCNN(STUDENT).eval()
    yield "student", student, file_bytes(dict(student.state_dict()))
    for setting in low_rank_cnn.SETTINGS[:-1]:
        low = low_rank_cnn.network(setting, images(64)).eval()
        yield " ".join(setting), low, file_bytes(dict(low.state_dict()))
    for row in pipeline_smallcnn.SETTINGS:
        network: nn.Module = SmallCNN.pretrained()
        if row.steps.startswith("new"):
            network = SmallCNN(pipeline_smallcnn.WIDTH).eval()
        if row.pruned != "nowhere":
            network = pipeline_smallcnn.smaller(network, row)
        if row.weights < 16:
            yield row.name, *integer(network, row.weights)
        else:
            yield row.name, network, file_bytes(pipeline_smallcnn.halved(network))


def sparse(network: nn.Module) -> dict[str, Tensor | metrics.Packed]:
    """Tensors of a network, those of its pruned weights as a bitmap and what is left."""
    tensors: dict[str, Tensor | metrics.Packed] = dict(network.state_dict())
    for name in pruning_cnn.LAYERS:
        weight = tensors.pop(f"{name}.weight")
        assert isinstance(weight, Tensor)
        stored = pruning.Bitmap.encode(weight)
        tensors |= {f"{name}.bits": stored.bits, f"{name}.values": stored.values}
    return tensors


def text_networks() -> Named:
    """CharGPT whole, with weights of few bits, and of one bit a weight; all compute in float32."""
    for name, model in (("CharGPT", "chargpt-teacher"), ("CharGPT onebit", "chargpt-onebit")):
        network = evaluation.load(model)
        yield name, network, evaluation.file_bytes(network)
    for bits in (4, 3, 2, 1):
        for group in (None, 64):
            rounded = CharGPT.pretrained()
            quantize_weights(rounded, "rtn", bits, group)
            size = evaluation.file_bytes(rounded)
            yield f"CharGPT W{bits} {group or 'row'}", rounded, size


def on(networks: dict[str, nn.Module], x: Tensor) -> dict[str, Callable[[], object]]:
    """Return calls of the networks on these images."""
    return {name: partial(network, x) for name, network in networks.items()}


def sessions(networks: dict[str, nn.Module], x: Tensor) -> dict[str, Callable[[], object]]:
    """Return calls of the networks that ONNX Runtime can run; their answers are checked."""
    numpy = x.numpy()
    calls: dict[str, Callable[[], object]] = {}
    for name, network in networks.items():
        is_integer = any(isinstance(m, IntegerModule) for m in network.modules())
        layers = [dict(network.named_modules()).get(n) for n in pruning_cnn.LAYERS]
        is_float = all(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in layers)
        if not is_integer and not is_float:
            continue
        session = onnx_session(network) if is_integer else float_session(network)  # type: ignore[arg-type]
        own, theirs = network(x), session.run(None, {"x": numpy})[0]
        assert torch.allclose(own, torch.from_numpy(theirs), atol=0.5 if is_integer else 1e-3), name
        calls[name] = lambda s=session: s.run(None, {"x": numpy})  # type: ignore[misc]
    return calls


def writer(network: Any) -> Callable[[], object]:
    """Return a function that reads one character after those before it, from an empty context."""
    state: dict[str, Any] = {"cache": network._cache()}
    token = torch.zeros(1, 1, dtype=torch.int64)

    def write() -> None:
        if state["cache"].length == network.context:
            state["cache"] = network._cache()
        network(token, False, state["cache"])

    return write


@torch.inference_mode()
def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    start, code = time.perf_counter(), code_state()
    found: dict[str, dict[str, Any]] = {}
    pictures: dict[str, nn.Module] = {}
    texts: dict[str, nn.Module] = {}
    for group, networks in ((pictures, image_networks()), (texts, text_networks())):
        for name, network, size in networks:
            found[name], group[name] = {"bytes": size}, network.eval()
            print(f"{name:28}{size:>9}", flush=True)
    one, many = images(1), images(BATCH)
    timed = {
        "": in_turns(on(pictures, one), ROUNDS["image"], WARMUP),
        "batch_": in_turns(on(pictures, many), ROUNDS["batch"], WARMUP),
        "ort_": in_turns(sessions(pictures, one), ROUNDS["image"], WARMUP),
        "ort_batch_": in_turns(sessions(pictures, many), 3 * ROUNDS["batch"], WARMUP),
        "text": in_turns({n: writer(m) for n, m in texts.items()}, ROUNDS["character"], WARMUP),
    }
    for what, times in timed.items():
        prefix = what.removeprefix("text")
        for name, taken in times.items():
            found[name] |= {
                f"{prefix}ms": round(taken.median * 1e3, 4),
                f"{prefix}minimum_ms": round(taken.minimum * 1e3, 4),
            }
    for name, row in found.items():
        print(f"{name:28}", *(f"{row[k]:>9}" for k in row))
    if write:
        write_record(
            RESULT,
            value=round(found["float"]["ort_batch_ms"] / found["W8 channel"]["ort_batch_ms"], 3),
            unit="times as fast: 8-bit as float SmallCNN, 64 images, both in ONNX Runtime",
            command="python -m benchmarks.scoreboard --write",
            seconds=round(time.perf_counter() - start, 1),
            code=code,
            batch=BATCH,
            rounds=ROUNDS,
            networks=found,
        )


if __name__ == "__main__":
    main()
