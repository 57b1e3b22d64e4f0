"""A network with some of its layers decomposed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from qtools.decomposition.convolution import conv_svd
from qtools.decomposition.layers import LowRankLinear
from qtools.decomposition.tensor import tucker2

#: What `decompose` takes for a layer: a rank, Tucker's two, or a function of the layer.
Choice = int | tuple[int, int] | Callable[[Any], nn.Module]

#: Their fast paths read the weights of their layers, and so cannot do without one.
_READ_WEIGHTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def decompose(
    model: nn.Module,
    ranks: Mapping[str, Choice],
    gram: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A copy of the model in which each layer named in `ranks` is a chain of smaller ones.

    | value | the layer becomes |
    |---|---|
    | ``8`` for a Linear | ``LowRankLinear.from_linear(layer, 8, gram)`` |
    | ``8`` for a Conv2d | ``conv_svd(layer, 8, gram)``: kh×kw to 8 channels, then 1×1 |
    | ``(4, 8)`` for a Conv2d | ``tucker2(layer, rank_in=4, rank_out=8)`` |
    | a function | what it returns: ``lambda conv: spatial_separable(conv, 8)`` |

    Parameters
    ----------
    model : nn.Module
        Unchanged. A layer used more than once, or known by several names, is decomposed once. A
        weight shared with another layer stays whole there.
    ranks : mapping
        Layer names as in ``model.named_modules()`` to one of the values above.
    gram : mapping, optional
        Layer names to ``XᵀX / n`` of their inputs, or to something with that as ``.matrix``, as
        ``qtools.pruning.gram_matrices`` gives; for the layers with one rank, which are then
        decomposed on their inputs (`whitened_rank_k`). Others do not use it.

    Raises
    ------
    ValueError, TypeError
        With the name of the layer: there is none of that name; it is no plain Linear or Conv2d
        (a subclass, a transposed convolution, a layer with hooks or parametrizations); a
        convolution is grouped; a rank is out of range; its Gram matrix is missing or unfit; its
        parent reads its weight (attention).
    """
    new = copy.deepcopy(model)
    names = dict(new.named_modules(remove_duplicate=False))
    made: dict[nn.Module, nn.Module] = {}
    for name, choice in ranks.items():
        if name not in names:
            raise ValueError(f"ranks must name modules of the model, got {name!r}")
        if names[name] in made:
            raise ValueError(f"{name}: ranks must name a layer once")
        try:
            made[names[name]] = _decompose(names[name], choice, _matrix(gram, name, choice))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
    for name, module in names.items():
        if module not in made:
            continue
        if not name:
            return made[module]
        parent, _, leaf = name.rpartition(".")
        if isinstance(names[parent], _READ_WEIGHTS):
            kind = type(names[parent]).__name__
            raise TypeError(f"{name}: {kind} reads this layer's weight, so it cannot be replaced")
        setattr(names[parent], leaf, made[module])
    return new


def _decompose(layer: nn.Module, choice: Choice, gram: Tensor | None) -> nn.Module:
    # Exactly: a subclass may compute something else, as parametrized layers do.
    if type(layer) not in (nn.Linear, nn.Conv2d):
        raise TypeError(f"layer must be a Linear or a Conv2d, got {type(layer).__name__}")
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise ValueError("layer must have no hooks; they would be lost")
    if callable(choice):
        return choice(layer)
    if isinstance(layer, nn.Linear):
        return LowRankLinear.from_linear(layer, choice, gram)  # type: ignore[arg-type]
    assert isinstance(layer, nn.Conv2d)
    if isinstance(choice, tuple):
        if len(choice) != 2:
            raise ValueError(f"ranks must be one or (rank_in, rank_out), got {choice}")
        return tucker2(layer, *choice)
    return conv_svd(layer, choice, gram)


def _matrix(gram: Mapping[str, Any] | None, name: str, choice: Choice) -> Tensor | None:
    if gram is None or not isinstance(choice, int):
        return None
    if name not in gram:
        raise ValueError("gram must have a matrix for this layer")
    return getattr(gram[name], "matrix", gram[name])
