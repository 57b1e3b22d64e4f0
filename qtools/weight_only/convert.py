"""From any network with linear layers to one whose weights take a few bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from tqdm.auto import tqdm

from qtools.onebit.convert import choose_layers
from qtools.onebit.modules import is_conv1d, named, replace_
from qtools.pruning import Gram, output_error
from qtools.weight_only.awq import awq
from qtools.weight_only.gptq import gptq
from qtools.weight_only.grid import Quantized, check_weight
from qtools.weight_only.layer import WeightOnlyLinear
from qtools.weight_only.packing import check_bits
from qtools.weight_only.rtn import rtn
from qtools.weight_only.stages import Batch, grams, stages

METHODS = ("rtn", "gptq", "awq")


class LayerReport(NamedTuple):
    """A layer whose weights are codes now.

    Attributes
    ----------
    names : tuple of str
        The layer's own, more than one where the module is shared.
    in_features, out_features : int
    bytes : int
        Codes, scales, zero points and AWQ's input scale, without the bias.
    bits_per_weight : float
        ``8 bytes / (in out)``.
    weight_error : float
        ``‖W - Ŵ‖² / ‖W‖²``; 0 for a matrix of zeros.
    output_error : float or None
        ``E‖(W - Ŵ) x‖² / E‖W x‖²`` over the calibration data, x what reached the layer when its
        turn came; None without data.
    """

    names: tuple[str, ...]
    in_features: int
    out_features: int
    bytes: int
    bits_per_weight: float
    weight_error: float
    output_error: float | None


class Report(NamedTuple):
    """What `quantize_weights` did.

    Attributes
    ----------
    method : str
    bits : int
    group_size : int or None
    symmetric : bool
    layers : tuple of LayerReport
    kept : dict
        Name to reason, for linear layers that were left as they are.
    """

    method: str
    bits: int
    group_size: int | None
    symmetric: bool
    layers: tuple[LayerReport, ...]
    kept: dict[str, str]

    @property
    def weights(self) -> int:
        """Weights that are codes now, a shared layer's once."""
        return sum(layer.in_features * layer.out_features for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Theirs, with all that belongs to them."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def bits_per_weight(self) -> float:
        """``8 bytes / weights``."""
        return 8 * self.bytes / self.weights

    def __str__(self) -> str:
        lines = [
            f"{', '.join(layer.names)}: {layer.in_features} to {layer.out_features}, "
            f"{layer.bits_per_weight:.3f} bits a weight, {layer.bytes} bytes, error "
            + (
                f"{layer.weight_error:.5f} of the weights"
                if layer.output_error is None
                else f"{layer.output_error:.5f} of the output"
            )
            for layer in self.layers
        ]
        lines += [f"{name}: kept, {reason}" for name, reason in self.kept.items()]
        total = (
            f"{self.method}: {len(self.layers)} layers, {self.weights} weights, "
            f"{self.bits_per_weight:.3f} bits a weight, {self.bytes} bytes"
        )
        return "\n".join([*lines, total])


def quantize_weights(
    model: nn.Module,
    method: str,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = False,
    calibration: Iterable[Batch] | None = None,
    skip: Sequence[str] | None = None,
    **options: Any,
) -> Report:
    """Replace, in place, every linear layer by a `WeightOnlyLinear` of the same name.

    | method | a weight becomes | calibration |
    |---|---|---|
    | ``"rtn"`` | the nearest level, see `rtn` | not needed; with it the report has output errors |
    | ``"gptq"`` | a level that makes up for those before, see `gptq` | needed |
    | ``"awq"`` | the nearest level in rescaled columns, see `awq` | needed |

    Layers take their turns in the order in which the model runs them, and each sees the inputs
    that the quantized layers before it give. For that the model runs once for every input that
    some layers share, up to those layers, over all batches: half as many passes as there are such
    inputs (four to a block of OPT or Llama). One XᵀX is kept at a time, and no activations.

    Codes and scales replace the weights; biases and all other layers stay as they are, and so do
    embeddings and ``lm_head``. transformers' Conv1D becomes a layer like the others. Layers that
    shared one weight have codes of their own afterwards.

    Parameters
    ----------
    model : nn.Module
        After an error, or an interruption, it is as it was.
    method : str
        A name of the table.
    bits : int
        1 to 8; 1 is the sign times the mean magnitude.
    group_size : int, optional
        Columns that share a scale, a divisor of every layer's inputs; otherwise a row does.
    symmetric : bool
        No zero points. With 1 bit there are none in any case.
    calibration : iterable, optional
        Batches for the model, on its device: tensors, or mappings of its arguments. All are held
        in a list. Every token counts, also one of padding.
    skip : sequence of str, optional
        Names, or whole parts of names, of modules to leave as they are; without it ``lm_head``
        where there is one. See `qtools.onebit.convert_`.
    options
        Further arguments of the method: ``act_order``, ``block_size``, ``damping``; ``alphas``.

    Returns
    -------
    Report
        Of each layer bits, bytes and errors; what was kept and why.

    Raises
    ------
    ValueError
        If method, bits or group_size is none of the above, calibration is missing or empty, the
        model has no linear layer to quantize or is one itself; with the name of the layer, if its
        weight is not finite, is shared with something that stays, is on the meta device or never
        used, or the layer has hooks.
    TypeError
        With the name of the layer, if it is a subclass of Linear or its parent reads its weight;
        if the method has no such option.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    check_bits(bits)
    batches = None if calibration is None else list(calibration)
    if not batches and (method != "rtn" or batches is not None):
        got = "an empty one" if batches is not None else "None"
        raise ValueError(f"calibration must have a batch for {method}, got {got}")
    layers, kept = choose_layers(model, skip)
    if not layers:
        raise ValueError("model must have linear layers to quantize, got none that is not in skip")
    for layer, names in layers.items():
        with named(names[0]):
            check_weight(_matrix(layer), group_size)
    now = {layer: layer for layer in layers}  # what stands in the place of each
    by_name = {names[0]: layer for layer, names in layers.items()}
    reports: dict[str, LayerReport] = {}

    def quantize(weight: Tensor, gram: Gram | None) -> Quantized:
        if method == "rtn" or gram is None:
            return rtn(weight, bits, group_size, symmetric, **options)
        call = gptq if method == "gptq" else awq
        return call(weight, gram.matrix, bits, group_size, symmetric, **options)

    def put(name: str, new: nn.Module) -> None:
        old = by_name[name]
        replace_(model, {now[old]: new.train(old.training)})
        now[old] = new

    try:
        for name, layer in by_name.items():
            if is_conv1d(layer):
                put(name, _as_linear(layer))
        found = _with_grams(model, by_name, batches)
        for name, gram in tqdm(found, method, len(by_name), delay=2, leave=False, unit="layer"):
            old = now[by_name[name]]
            with named(name):
                weight = quantize(_matrix(old), gram)
            new = WeightOnlyLinear.from_weight(weight, old.bias)  # type: ignore[arg-type]
            reports[name] = _report(tuple(layers[by_name[name]]), _matrix(old), new, gram)
            put(name, new)
    except BaseException:
        replace_(model, {new: old for old, new in now.items()})
        raise
    return Report(
        method, bits, group_size, symmetric, tuple(reports[name] for name in by_name), kept
    )


def _with_grams(
    model: nn.Module, names: Iterable[str], batches: Sequence[Batch] | None
) -> Iterator[tuple[str, Gram | None]]:
    """Each layer when its turn comes, with XᵀX of what reaches it by then."""
    if batches is None:
        yield from ((name, None) for name in names)
        return
    for stage in stages(model, list(names), batches):
        yield from grams(model, stage, batches).items()


def _report(
    names: tuple[str, ...], weight: Tensor, new: WeightOnlyLinear, gram: Gram | None
) -> LayerReport:
    old, hat = weight.double(), new.dequantize().double()
    error = None
    if gram is not None:
        zero = output_error(old, old.new_zeros(old.shape), gram.matrix)
        error = _share(output_error(old, hat, gram.matrix), zero)
    return LayerReport(
        names,
        new.in_features,
        new.out_features,
        new.weight_bytes,
        new.bits_per_weight,
        _share(float((old - hat).square().sum()), float(old.square().sum())),
        error,
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _matrix(layer: nn.Module) -> Tensor:
    """Weight [out, in]."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach().T if is_conv1d(layer) else weight.detach()


def _as_linear(layer: nn.Module) -> nn.Linear:
    """A Linear on the very memory of a Conv1D."""
    weight = _matrix(layer)
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    new.weight, new.bias = nn.Parameter(weight, requires_grad=False), layer.bias  # type: ignore[assignment]
    return new
