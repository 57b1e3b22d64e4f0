"""Two fixes for a calibrated network: bias correction, and rounding by gradient."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from tqdm import tqdm

from qtools.layout import spread
from qtools.ptq.flow import as_arguments, layers
from qtools.ptq.simulate import FixedQParams, simulate
from qtools.ptq.weights import weight_qparams

# Nagel et al. 2020: the sigmoid is stretched to [γ, ζ], so that h reaches 0 and 1.
_GAMMA, _ZETA = -0.1, 1.1


@torch.no_grad()
def correct_bias(p: fx.GraphModule, batches: Iterable[Any]) -> fx.GraphModule:
    """``b ← b - (E[Ŵ x̂] - E[W x])`` per output channel, layer after layer.

    Rounding errors of a channel's weights do not average out over inputs that are not centred:
    they shift its mean. The shift is measured on data and taken out of the bias (Nagel et al.
    2019, section 4.2 and appendix D), before the next layer is measured.

    Parameters
    ----------
    p : GraphModule
        From `prepare`, calibrated. Unchanged.
    batches : iterable
        As for `calibrate`.

    Returns
    -------
    GraphModule
        A prepared network for `convert`.
    """
    data, result = _data(batches), copy.deepcopy(p)
    exact = simulate(p, weights=False, activations=False)
    for name in tqdm(_names(result), "correct biases", delay=2, leave=False):
        (_, y), (_, y_hat) = (_record(m, name, data) for m in (exact, simulate(result)))
        shift = _channel_mean(y_hat) - _channel_mean(y)
        module = result.get_submodule(name)
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        bias = torch.zeros_like(shift) if module.bias is None else module.bias.detach()
        module.bias = nn.Parameter(bias - shift)
    return result


def adaround(
    p: fx.GraphModule,
    batches: Iterable[Any],
    iterations: int = 1000,
    lr: float = 1e-2,
    regularisation: float = 1e-2,
    seed: int = 0,
) -> fx.GraphModule:
    """Learn which weights to round up: ``Ŵ = s clip(floor(W/s) + h(V), qmin - z, qmax - z)``.

    Rounding to nearest minimises the error of the weights, not of what a layer computes. V
    minimises ``E ‖f(W x) - f(Ŵ x̂)‖² + λ Σ (1 - |2 h(V) - 1|^β)``, layer after layer, by Adam, with
    ``h(V) = clip(σ(V)(ζ - γ) + γ, 0, 1)``, ζ = 1.1, γ = -0.1 (Nagel et al. 2020, eqs. 21-25). x̂ is
    what the quantized layers before it give, f a fused activation. The first fifth of the steps
    is without the second term; then β falls from 20 to 2, which drives every h to 0 or 1.

    Parameters
    ----------
    p : GraphModule
        From `prepare`, calibrated. Unchanged.
    batches : iterable
        As for `calibrate`; all of them are kept in memory, with one layer's inputs and outputs.
    iterations, lr, regularisation, seed
        Adam steps a layer, on 32 samples each; its rate; λ; of the choice of samples.

    Returns
    -------
    GraphModule
        A prepared network for `convert`, whose weights are on their grids.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    data, result = _data(batches), copy.deepcopy(p)
    exact = simulate(p, weights=False, activations=False)
    clamps = {str(layer.node.target): layer.role.clamp for layer in layers(p)}
    generator = torch.Generator().manual_seed(seed)
    for name in tqdm(_names(result), "adaround", delay=2, leave=False):
        with torch.no_grad():
            _, y = _record(exact, name, data)
            x_hat, _ = _record(simulate(result), name, data)
        module, clamp = result.get_submodule(name), clamps[name]
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        qp = weight_qparams(module, result.meta["recipe"])
        weight = module.weight.detach()
        s, z = (spread(t, qp, weight.shape) for t in (qp.scale, qp.zero_point))
        below = torch.floor(weight / s)
        rest = (weight / s - below - _GAMMA) / (_ZETA - _GAMMA)
        v = torch.logit(rest).requires_grad_()
        low, high = qp.spec.qmin - z, qp.spec.qmax - z
        optimizer = torch.optim.Adam([v], lr)
        warmup = iterations // 5
        for step in range(iterations):
            pick = torch.randint(len(x_hat), (32,), generator=generator)
            h = (v.sigmoid() * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)
            soft = s * torch.clamp(below + h, low, high)
            y_hat = functional_call(module, {"weight": soft}, x_hat[pick])
            error = y[pick].clamp(*clamp) - y_hat.clamp(*clamp)
            loss = error.square().flatten(1).sum(1).mean() / (error[0].numel() / len(weight))
            if step >= warmup:
                beta = 20 - 18 * (step - warmup) / (iterations - warmup)
                loss = loss + regularisation * (1 - (2 * h - 1).abs().pow(beta)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            up = (v.sigmoid() * (_ZETA - _GAMMA) + _GAMMA >= 0.5).to(weight.dtype)
            module.weight.copy_(s * torch.clamp(below + up, low, high))
        module.weight_quantizer = FixedQParams(qp)
    return result


def _data(batches: Iterable[Any]) -> list[tuple[Any, ...]]:
    data = [as_arguments(batch) for batch in batches]
    if not data:
        raise ValueError("batches must hold at least one batch, got none")
    return data


def _names(p: fx.GraphModule) -> list[str]:
    """Targets of the layers in the order they first run; a shared module once."""
    return list(dict.fromkeys(str(layer.node.target) for layer in layers(p)))


def _record(m: fx.GraphModule, name: str, data: list[tuple[Any, ...]]) -> tuple[Tensor, Tensor]:
    """Inputs and outputs of one module over all batches and calls."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = m.get_submodule(name).register_forward_hook(lambda _, args, y: seen.append((args[0], y)))
    try:
        for arguments in data:
            m(*arguments)
    finally:
        hook.remove()
    x, y = (torch.cat(parts) for parts in zip(*seen, strict=True))
    return x, y


def _channel_mean(y: Tensor) -> Tensor:
    """Mean over all but the channels: axis 1 of images, else the last."""
    channels = y.movedim(1, -1) if y.ndim == 4 else y
    return channels.flatten(0, -2).mean(0)
