"""``torch.ops.qtools.sign_matmul`` and ``onebit_linear``: declared once, for every device.

Both have kernels, shapes for `torch.compile` and `torch.export`, and gradients for the input and
the vectors. The bits have none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from qtools.kernels import paths
from qtools.kernels.bits import row_bytes, unpack_signs

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_library = torch.library.Library("qtools", "FRAGMENT")
_library.define("sign_matmul(Tensor x, Tensor bits, int in_features) -> Tensor")
_library.define("onebit_linear(Tensor x, Tensor bits, Tensor g, Tensor h) -> Tensor")


def sign_matmul(x: Tensor, bits: Tensor, in_features: int) -> Tensor:
    """``S x`` over the last dimension of x, with S of -1 and +1 stored as bits.

    ``torch.ops.qtools.sign_matmul``. `info` says how it is computed on this machine.

    Parameters
    ----------
    x : Tensor
        [..., in_features], floating point. float16 and bfloat16 are summed in float32.
    bits : Tensor
        uint8 [out, row_bytes(in_features)] from `pack_signs`, on the device of x.
    in_features : int
        At least 1.

    Returns
    -------
    Tensor
        [..., out] in the type of x.

    Raises
    ------
    TypeError, ValueError
        If type, shape or device of an argument do not fit.

    Examples
    --------
    >>> from qtools.kernels.bits import pack_signs
    >>> bits = pack_signs(torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]]))
    >>> sign_matmul(torch.tensor([1.0, 2.0, 4.0]), bits, 3)
    tensor([3., 1.])
    """
    if _eager(x, x, x):
        return _sign_matmul(x, bits, in_features)
    result: Tensor = torch.ops.qtools.sign_matmul(x, bits, in_features)
    return result


def onebit_linear(x: Tensor, bits: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """``h ⊙ (S (g ⊙ x))`` over the last dimension of x: Xu et al. 2024, eq. 3, in one pass.

    ``torch.ops.qtools.onebit_linear``.

    Parameters
    ----------
    x : Tensor
        [..., in], floating point. float16 and bfloat16 are computed in float32.
    bits : Tensor
        uint8 [out, row_bytes(in)] from `pack_signs`, on the device of x.
    g, h : Tensor
        [in] and [out], floating point of any type.

    Returns
    -------
    Tensor
        [..., out] in the type of x.

    Raises
    ------
    TypeError, ValueError
        If type, shape or device of an argument do not fit.
    """
    if _eager(x, g, h):
        return _onebit_linear(x, bits, g, h)
    result: Tensor = torch.ops.qtools.onebit_linear(x, bits, g, h)
    return result


def _eager(x: Tensor, g: Tensor, h: Tensor) -> bool:
    """Whether nobody would notice that torch's dispatcher, 15 to 30 µs a call, is left out.

    Nobody compiles, traces, differentiates, maps or counts, and the tensors are plain ones.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and type(g) is Tensor
        and type(h) is Tensor
        and not (
            (x.requires_grad or g.requires_grad or h.requires_grad) and torch.is_grad_enabled()
        )
        and not _modes()
        and _transform() is None
        and _trace() is None
    )


# Private, and the same since torch 2.2 at least. Where one is missing, nothing is ever left out.
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_transform = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: 1)
_trace = getattr(torch._C, "_get_tracing_state", lambda: 1)


def check(x: Tensor, bits: Tensor, in_features: int) -> None:
    """Refuse what `sign_matmul` cannot multiply, naming argument and value."""
    if x.dtype not in FLOATS:
        raise TypeError(f"x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if bits.dtype != torch.uint8:
        raise TypeError(f"bits must be uint8, got {bits.dtype}")
    if in_features < 1:
        raise ValueError(f"in_features must be at least 1, got {in_features}")
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ValueError(f"x must have the shape [..., {in_features}], got {list(x.shape)}")
    if bits.dim() != 2 or bits.shape[1] != row_bytes(in_features):
        raise ValueError(
            f"bits must have the shape [out, {row_bytes(in_features)}] for {in_features} columns, "
            f"got {list(bits.shape)}"
        )
    if x.device != bits.device:
        raise ValueError(f"bits must be on the device of x, {x.device}, got {bits.device}")


def check_vectors(x: Tensor, bits: Tensor, g: Tensor, h: Tensor) -> None:
    """Refuse vectors that do not fit."""
    if g.dim() != 1:
        raise ValueError(f"g must be a vector, got shape {list(g.shape)}")
    if h.dim() != 1 or h.shape[0] != bits.shape[0]:
        raise ValueError(f"h must have the shape [{bits.shape[0]}], got {list(h.shape)}")
    for name, vector in (("g", g), ("h", h)):
        if vector.dtype not in FLOATS:
            raise TypeError(f"{name} must be floating point, got {vector.dtype}")
        if vector.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}, got {vector.device}")


def _sign_matmul(x: Tensor, bits: Tensor, in_features: int) -> Tensor:
    check(x, bits, in_features)
    return paths.choose(x)(x, bits, in_features, None, None)


def _onebit_linear(x: Tensor, bits: Tensor, g: Tensor, h: Tensor) -> Tensor:
    check(x, bits, g.numel())
    check_vectors(x, bits, g, h)
    return paths.choose(x)(x, bits, g.numel(), g, h)


_library.impl("sign_matmul", _sign_matmul, "CompositeExplicitAutograd")
_library.impl("onebit_linear", _onebit_linear, "CompositeExplicitAutograd")


@torch.library.register_fake("qtools::sign_matmul")
def _fake_sign_matmul(x: Tensor, bits: Tensor, in_features: int) -> Tensor:
    check(x, bits, in_features)
    return x.new_empty((*x.shape[:-1], bits.shape[0]))


@torch.library.register_fake("qtools::onebit_linear")
def _fake_onebit_linear(x: Tensor, bits: Tensor, g: Tensor, h: Tensor) -> Tensor:
    check(x, bits, g.numel())
    check_vectors(x, bits, g, h)
    return x.new_empty((*x.shape[:-1], bits.shape[0]))


def _keep_bits(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, bits, ctx.in_features = inputs
    ctx.save_for_backward(bits)


def _sign_matmul_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    """``dL/dx = Sᵀ dL/dy``."""
    (bits,) = ctx.saved_tensors
    return grad @ unpack_signs(bits, ctx.in_features, grad.dtype), None, None


def _keep_all(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _onebit_linear_backward(
    ctx: Any, grad: Tensor
) -> tuple[Tensor | None, None, Tensor | None, Tensor | None]:
    """``dL/du = Sᵀ (h ⊙ dL/dy)`` with ``u = g ⊙ x``; ``dL/dh = Σ dL/dy ⊙ S u`` over the rows."""
    x, bits, g, h = ctx.saved_tensors
    needs_x, _, needs_g, needs_h = ctx.needs_input_grad
    wide = torch.promote_types(x.dtype, torch.float32)
    u = x.to(wide) * g.to(wide)
    grad = grad.to(wide)
    grad_x = grad_g = grad_h = None
    if needs_x or needs_g:
        grad_u = (grad * h.to(wide)) @ unpack_signs(bits, g.numel(), wide)
        if needs_x:
            grad_x = (grad_u * g.to(wide)).to(x.dtype)
        if needs_g:
            grad_g = _over_rows(grad_u * x.to(wide)).to(g.dtype)
    if needs_h:
        grad_h = _over_rows(grad * sign_matmul(u, bits, g.numel())).to(h.dtype)
    return grad_x, None, grad_g, grad_h


def _over_rows(y: Tensor) -> Tensor:
    return y.reshape(-1, y.shape[-1]).sum(0)


torch.library.register_autograd(
    "qtools::sign_matmul", _sign_matmul_backward, setup_context=_keep_bits, lib=_library
)
torch.library.register_autograd(
    "qtools::onebit_linear", _onebit_linear_backward, setup_context=_keep_all, lib=_library
)


def _map_x(op: Any, dims: tuple[Any, ...], x: Tensor, rest: tuple[Any, ...]) -> tuple[Tensor, int]:
    """Leading dimensions are mapped by themselves, so those of x need only be moved there."""
    if dims[0] is None or any(dim is not None for dim in dims[1:]):
        raise NotImplementedError("only x can be mapped over, not bits, g or h")
    return op(x.movedim(dims[0], 0), *rest), 0


@torch.library.register_vmap("qtools::sign_matmul", lib=_library)
def _map_sign_matmul(info: Any, dims: tuple[Any, ...], x: Tensor, *rest: Any) -> tuple[Tensor, int]:
    return _map_x(torch.ops.qtools.sign_matmul, dims, x, rest)


@torch.library.register_vmap("qtools::onebit_linear", lib=_library)
def _map_onebit_linear(
    info: Any, dims: tuple[Any, ...], x: Tensor, *rest: Any
) -> tuple[Tensor, int]:
    return _map_x(torch.ops.qtools.onebit_linear, dims, x, rest)


@register_flop_formula([torch.ops.qtools.sign_matmul, torch.ops.qtools.onebit_linear])
def _flops(x: Any, bits: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Two for each sign and row: an addition is counted as the multiply-add that it replaces."""
    rows = 1
    for size in x[:-1]:
        rows *= size
    return int(2 * rows * x[-1] * bits[0])
