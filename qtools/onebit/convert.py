"""From any network with linear layers to one of OneBit layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from qtools.onebit.layer import OneBitLinear, check_eps, check_gradient, sign
from qtools.onebit.modules import (
    all_names,
    check_linear,
    check_root,
    is_conv1d,
    is_linear,
    parents,
    replace_,
    sizes,
)
from qtools.onebit.svid import svid

#: Kept in float where nothing else is said: the paper keeps embeddings and the head.
SKIP = ("lm_head",)

#: Magnitude of every latent weight at the start in the released code.
RELEASED_START = 0.01

STARTS = ("weights", "sign")


class Converted(NamedTuple):
    """A layer that has become a OneBit layer.

    Attributes
    ----------
    names : tuple of str
        The layer's own, more than one where the module is shared.
    in_features, out_features : int
    error : float
        ``‖W − W_sign ⊙ h gᵀ‖_F / ‖W‖_F`` at the start; 0 for a matrix of zeros.
    """

    names: tuple[str, ...]
    in_features: int
    out_features: int
    error: float


class Conversion(NamedTuple):
    """What `convert_` did.

    Attributes
    ----------
    converted : tuple of Converted
    kept : dict
        Name to reason, for linear layers that were left as they are.
    """

    converted: tuple[Converted, ...]
    kept: dict[str, str]

    @property
    def weights(self) -> int:
        """Weights that are one bit each now, a shared layer's once."""
        return sum(layer.in_features * layer.out_features for layer in self.converted)

    def __str__(self) -> str:
        lines = [
            f"{', '.join(layer.names)}: {layer.in_features} to {layer.out_features}, "
            f"relative error {layer.error:.4f}"
            for layer in self.converted
        ]
        lines += [f"{name}: kept, {reason}" for name, reason in self.kept.items()]
        return "\n".join([*lines, f"{len(self.converted)} layers, {self.weights} weights"])


def convert_(
    model: nn.Module,
    skip: Sequence[str] | None = None,
    start: str = "weights",
    gradient: str = "tanh",
    layer_norm: bool = True,
    eps: float = 1e-5,
) -> Conversion:
    """Replace, in place, every linear layer by a `OneBitLinear` that starts from its SVID.

    ``W ≈ W_sign ⊙ (a bᵀ)`` gives ``g = b`` and ``h = a`` (Xu et al. 2024, eqs. 4-5); type,
    device, mode, ``requires_grad`` and bias carry over. The signs come from the trained weights in
    either start of the latent weights:

    | start | latent W | source |
    |---|---|---|
    | ``"weights"`` | W | the paper's text: W is fine-tuned |
    | ``"sign"`` | ``0.01 sign(W)`` | the released code |

    A module under several names stays one module. Different layers that share one weight go on
    sharing it, with a g and h each. transformers' Conv1D, a linear layer transposed, is converted
    like one. All new layers are made before the first takes its place: after an error the model
    is as it was.

    Parameters
    ----------
    model : nn.Module
        Its parameters change: make the optimizer afterwards.
    skip : sequence of str, optional
        Names, or whole parts of names, of modules to leave as they are with all they hold:
        ``"lm_head"``, ``"layers.0"``, ``"fc1"`` (in every block). Each must name some module.
        Without it, ``lm_head`` where there is one.
    start, gradient : str
        Of the latent weights, see above; of the sign, see `straight_through_sign`.
    layer_norm, eps : bool, float
        See `OneBitLinear`.

    Returns
    -------
    Conversion
        Names, sizes and errors of the layers, and what was kept and why. Layers that are
        OneBitLinear already are no linear layers any more, and are left alone.

    Raises
    ------
    TypeError
        With the name of the layer, if it is a subclass of Linear, or its parent reads its weight
        (``nn.MultiheadAttention``, ``nn.TransformerEncoderLayer``); if skip is one string.
    ValueError
        With the name of the layer, if its weight is shared with something else than a converted
        layer, has values that are not finite or is on the meta device, or if it has hooks; if the
        model is itself a linear layer, skip names nothing, or start, gradient or eps is unknown.
    """
    check_gradient(gradient)
    check_eps(eps)
    if start not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)}, got {start!r}")
    layers, kept = choose_layers(model, skip)
    made: dict[nn.Module, nn.Module] = {}
    latent: dict[int, nn.Parameter] = {}
    converted = []
    for layer, names in layers.items():
        try:
            made[layer], error = _from_linear(layer, start, gradient, layer_norm, eps, latent)
        except (TypeError, ValueError) as problem:
            raise type(problem)(f"{names[0]}: {problem}") from problem
        converted.append(Converted(tuple(names), *sizes(layer), error))
    replace_(model, made)
    return Conversion(tuple(converted), kept)


def choose_layers(
    model: nn.Module, skip: Sequence[str] | None
) -> tuple[dict[nn.Module, list[str]], dict[str, str]]:
    """Layers to convert, each with its names, and names to keep, each with the reason.

    A model that cannot be converted, or a tie that would break, is refused.
    """
    check_root(model)
    if isinstance(skip, str):
        raise TypeError(f"skip must be a sequence of names, got the string {skip!r}")
    modules = all_names(model)
    for part in skip or ():
        if not any(_names(part, name) for name, _ in modules):
            raise ValueError(f"skip must name modules of the model, got {part!r}")
    parts = SKIP if skip is None else skip
    skipped = {name: part for name, _ in modules for part in parts if _names(part, name)}
    by_module = {module: skipped[name] for name, module in modules if name in skipped}
    holders = parents(model)
    layers: dict[nn.Module, list[str]] = {}
    kept = {}
    for name, module in modules:
        if not is_linear(module):
            continue
        if module in by_module:  # under any of its names
            kept[name] = f"skip has {by_module[module]!r}"
            continue
        check_linear(name, module, holders[name])
        layers.setdefault(module, []).append(name)
    _check_ties(model, layers)
    return layers, kept


def _names(part: str, name: str) -> bool:
    """Whether `part` is a whole part of a dotted name: "layers.1" is none of "layers.10.fc"."""
    return bool(part) and f".{part}." in f".{name}."


def _check_ties(model: nn.Module, layers: dict[nn.Module, list[str]]) -> None:
    """Refuse to break a tie: a weight that something else uses too must stay in float."""
    users: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in all_names(model):
        for parameter in module._parameters.values():
            if parameter is not None:
                users.setdefault(id(parameter), []).append((name, module))
    for layer, names in layers.items():
        for other_name, other in users[id(layer.weight)]:
            # Transposed and plain, one latent weight cannot serve both.
            if other not in layers or is_conv1d(other) != is_conv1d(layer):
                raise ValueError(
                    f"{names[0]} shares its weight with {other_name}, which stays in float; "
                    f"name it in skip to keep both: skip=({names[0]!r},)"
                )


def _from_linear(
    layer: nn.Module,
    start: str,
    gradient: str,
    layer_norm: bool,
    eps: float,
    latent: dict[int, nn.Parameter],
) -> tuple[OneBitLinear, float]:
    """Return the new layer and SVID's relative error; `latent` holds what shared weights became."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, nn.Parameter)
    matrix = weight.detach().T.contiguous() if is_conv1d(layer) else weight.detach()
    sv = svid(matrix)
    # Made without memory, then given its values: no random numbers are drawn.
    new = OneBitLinear(
        *sizes(layer), False, layer_norm, gradient, eps, device="meta", dtype=weight.dtype
    )
    if id(weight) not in latent:
        latent[id(weight)] = _start(weight, matrix, start)
    new.weight = latent[id(weight)]
    # Square roots of magnitudes, about: they fit the type that the weights fit.
    new.g = nn.Parameter(sv.b.to(weight.dtype), weight.requires_grad)
    new.h = nn.Parameter(sv.a.to(weight.dtype), weight.requires_grad)
    if bias is not None:
        assert isinstance(bias, nn.Parameter)
        new.bias = bias  # the very parameter: a shared one stays shared
    return new.train(layer.training), sv.relative_error


def _start(weight: nn.Parameter, matrix: Tensor, start: str) -> nn.Parameter:
    if start == "weights":
        # The very parameter, where it is not transposed.
        same = matrix.shape == weight.shape and matrix.data_ptr() == weight.data_ptr()
        return weight if same else nn.Parameter(matrix, weight.requires_grad)
    return nn.Parameter(RELEASED_START * sign(matrix), weight.requires_grad)
