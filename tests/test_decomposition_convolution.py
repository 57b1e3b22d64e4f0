"""Chains of convolutions: equal to the original at full rank, and the best where one is known."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qtools.decomposition import (
    best_rank_k,
    conv_svd,
    cp,
    merged_kernel,
    spatial_separable,
    tucker2,
    whitened_rank_k,
)

EPS = torch.finfo(torch.float64).eps


@st.composite
def convolutions(draw: st.DrawFn, grouped: bool = False, channels: int = 6) -> nn.Conv2d:
    """float64; kernel, stride, dilation and padding each with two sides of their own."""
    torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
    groups = draw(st.integers(1, 3)) if grouped else 1
    inside, out = (groups * draw(st.integers(1, channels // groups)) for _ in range(2))
    sides = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride = draw(sides), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 2)),
                             st.sampled_from(["same", "valid"])))  # fmt: skip
    return nn.Conv2d(
        inside, out, kernel, (1, 1) if padding == "same" else stride, padding,
        draw(st.tuples(st.integers(1, 2), st.integers(1, 2))), groups, draw(st.booleans()),
        draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])), dtype=torch.float64,
    )  # fmt: skip


def image(conv: nn.Conv2d) -> Tensor:
    return torch.randn(2, conv.in_channels, 11, 12, dtype=torch.float64)


def same_function(chain: nn.Sequential, conv: nn.Conv2d, tol: float = 1e-12) -> None:
    x = image(conv)
    expected, got = conv(x), chain(x)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tol * (1 + expected.abs().max())
    # The kernel is read off to the same precision.
    assert (merged_kernel(chain) - conv.weight).norm() <= tol * conv.weight.norm()


def as_convolution(chain: nn.Sequential, conv: nn.Conv2d) -> nn.Conv2d:
    """`conv` with the chain's kernel in place of its own: the chain must compute the same."""
    new = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
        conv.dilation, conv.groups, conv.bias is not None, conv.padding_mode, dtype=torch.float64,
    )  # fmt: skip
    new.load_state_dict(conv.state_dict() | {"weight": merged_kernel(chain)})
    return new


@given(convolutions(grouped=True))
def test_spatial_separable_at_full_rank(conv):
    out, inside, kh, kw = conv.weight.shape
    full = min(inside * kh, out // conv.groups * kw)
    chain = spatial_separable(conv, full)
    assert [link.kernel_size for link in chain] == [(kh, 1), (1, kw)]
    assert chain[0].out_channels == full * conv.groups
    same_function(chain, conv)


@given(convolutions())
def test_conv_svd_at_full_rank(conv):
    out = conv.out_channels
    full = min(out, conv.weight[0].numel())
    chain = conv_svd(conv, full)
    assert [link.kernel_size for link in chain] == [conv.kernel_size, (1, 1)]
    same_function(chain, conv)


@given(convolutions())
@settings(max_examples=40)
def test_tucker2_at_full_rank(conv):
    chain = tucker2(conv, conv.in_channels, conv.out_channels)
    assert [link.kernel_size for link in chain] == [(1, 1), conv.kernel_size, (1, 1)]
    same_function(chain, conv)


@given(convolutions(channels=3))
@settings(max_examples=25)
def test_cp_at_full_rank(conv):
    sizes = conv.weight.shape
    full = conv.weight.numel() // max(sizes)
    chain = cp(conv, full)
    kh, kw = conv.kernel_size
    assert [link.kernel_size for link in chain] == [(1, 1), (kh, 1), (1, kw), (1, 1)]
    assert [link.groups for link in chain] == [1, full, full, 1]
    same_function(chain, as_convolution(chain, conv))
    assert (merged_kernel(chain) - conv.weight).norm() <= 5e-3 * conv.weight.norm()


@given(convolutions(grouped=True))
def test_spatial_separable_is_the_best_for_each_group(conv):
    out, inside, kh, kw = conv.weight.shape
    out //= conv.groups
    rank = max(1, min(inside * kh, out * kw) // 2)
    chain = spatial_separable(conv, rank)
    least = 0.0
    for group in conv.weight.detach().split(out):
        matrix = torch.stack([group[o, i, y] for i in range(inside) for y in range(kh)
                              for o in range(out)]).view(inside * kh, out * kw)  # fmt: skip
        least += torch.linalg.svdvals(matrix)[rank:].square().sum().item()
    error = (merged_kernel(chain) - conv.weight).norm().item()
    assert error == pytest.approx(least**0.5, abs=1e-13 * conv.weight.norm().item() * 100)
    same_function(chain, as_convolution(chain, conv))


@given(convolutions(), st.integers(1, 6))
def test_conv_svd_is_the_best_on_patches(conv, rank):
    """With the Gram matrix of F.unfold's patches, outputs are the best of their rank."""
    w = conv.weight.detach().flatten(1)
    rank = min(rank, *w.shape)
    conv.padding_mode = "zeros"  # what unfold knows
    if conv.padding == "same":
        conv.padding = (0, 0)
    padding = (0, 0) if conv.padding == "valid" else conv.padding
    x = image(conv)
    patches = F.unfold(x, conv.kernel_size, conv.dilation, padding, conv.stride)
    patches = patches.transpose(1, 2).flatten(0, 1)
    chain = conv_svd(conv, rank, patches.T @ patches / len(patches))
    outputs = patches @ w.T
    least = torch.linalg.svdvals(outputs)[rank:].norm().item()
    error = (chain(x) - conv(x)).norm().item()
    assert error == pytest.approx(least, abs=1e-8 * outputs.norm().item())
    plain = conv_svd(conv, rank)
    assert error <= (plain(x) - conv(x)).norm().item() + 1e-8 * outputs.norm().item()
    torch.testing.assert_close(merged_kernel(plain).flatten(1), best_rank_k(w, rank).reconstruct())


@given(convolutions(), st.data())
@settings(max_examples=40)
def test_tucker2_is_within_its_bounds(conv, data):
    w = conv.weight.detach()
    rank_in = data.draw(st.integers(1, conv.in_channels))
    rank_out = data.draw(st.integers(1, conv.out_channels))
    chain = tucker2(conv, rank_in, rank_out)
    assert [link.out_channels for link in chain] == [rank_in, rank_out, conv.out_channels]
    t_out = torch.linalg.svdvals(w.flatten(1))[rank_out:].norm().item()
    t_in = torch.linalg.svdvals(w.transpose(0, 1).flatten(1))[rank_in:].norm().item()
    error = (merged_kernel(chain) - w).norm().item()
    slack = 1e-12 * w.norm().item()
    assert max(t_out, t_in) - slack <= error <= (t_out**2 + t_in**2) ** 0.5 + slack
    same_function(chain, as_convolution(chain, conv))


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@settings(max_examples=20)
def test_cp_finds_terms_that_are_there(seed, rank):
    torch.manual_seed(seed)
    conv = nn.Conv2d(5, 6, (3, 4), stride=(2, 1), padding=(1, 2), dtype=torch.float64)
    factors = [torch.linalg.qr(torch.randn(d, 3, dtype=torch.float64)).Q[:, :rank]
               for d in conv.weight.shape]  # fmt: skip
    with torch.no_grad():
        # Orthogonal and of different sizes: the SVDs of the unfoldings then have the terms apart.
        sizes = 2.0 ** torch.arange(rank)
        conv.weight.copy_(torch.einsum("r,or,ir,yr,xr->oiyx", sizes.double(), *factors))
    chain = cp(conv, rank)
    assert (merged_kernel(chain) - conv.weight).norm() <= 1e-5 * conv.weight.norm()
    # Four factors share each term evenly.
    norms = torch.stack([
        chain[0].weight.flatten(1).norm(dim=1), chain[1].weight.flatten(1).norm(dim=1),
        chain[2].weight.flatten(1).norm(dim=1), chain[3].weight.flatten(1).norm(dim=0),
    ])  # fmt: skip
    torch.testing.assert_close(norms, norms[:1].expand(4, -1))


def test_cp_is_no_nearer_than_the_unfoldings_allow():
    """Each unfolding of a CP of rank r has rank r; and more starts never make it worse."""
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, 3, dtype=torch.float64)
    w = conv.weight.detach()
    errors = [(merged_kernel(cp(conv, 3, starts)) - w).norm().item() for starts in (1, 2, 4)]
    assert errors[0] >= errors[1] >= errors[2]
    for axis in range(4):
        unfolded = w.movedim(axis, 0).flatten(1)
        assert errors[2] >= torch.linalg.svdvals(unfolded)[3:].norm().item()
    assert errors[2] < w.norm().item()


def test_tensorly_leaves_no_trace():
    import numpy as np
    import tensorly

    conv = nn.Conv2d(4, 4, 3)
    tensorly.set_backend("numpy")
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again = (cp(conv, 5, 3) for _ in range(2))
    tucker2(conv, 2, 2)
    assert tensorly.get_backend() == "numpy"
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.weight, b.weight)
    with pytest.raises(ValueError, match="rank"):
        cp(conv, 0)
    assert tensorly.get_backend() == "numpy"


def test_other_threads_keep_their_tensorly(monkeypatch):
    import tensorly
    import tensorly.decomposition

    tensorly.set_backend("numpy")
    fit, seen = tensorly.decomposition.partial_tucker, []

    def watched(*args, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(tensorly.get_backend).result())
        return fit(*args, **kwargs)

    monkeypatch.setattr(tensorly.decomposition, "partial_tucker", watched)
    tucker2(nn.Conv2d(4, 4, 3), 2, 2)
    assert seen == ["numpy"]


CHAINS = {
    "spatial_separable": lambda conv: spatial_separable(conv, 2),
    "conv_svd": lambda conv: conv_svd(conv, 2),
    "tucker2": lambda conv: tucker2(conv, 2, 3),
    "cp": lambda conv: cp(conv, 4),
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_carries_over(chain, dtype):
    conv = nn.Conv2d(4, 5, 3, padding=1).to(dtype).eval()
    conv.bias.requires_grad_(False)
    before = conv.weight.detach().clone()
    state = torch.get_rng_state()
    new = chain(conv)
    assert torch.equal(torch.get_rng_state(), state)  # no weights drawn only to be replaced
    assert torch.equal(conv.weight, before)
    assert not any(link.training for link in new)
    assert {p.dtype for p in new.parameters()} == {dtype}
    assert all(link.weight.requires_grad for link in new)
    assert [link.bias is not None for link in new] == [False] * (len(new) - 1) + [True]
    assert torch.equal(new[-1].bias, conv.bias)
    assert not new[-1].bias.requires_grad
    assert new[-1].bias is not conv.bias
    frozen = chain(conv.requires_grad_(False))
    assert not any(p.requires_grad for p in frozen.parameters())
    y = new(torch.randn(1, 4, 8, 8, dtype=dtype))
    assert y.shape == (1, 5, 8, 8)
    assert y.isfinite().all()


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_kernel_of_zeros(chain):
    conv = nn.Conv2d(4, 5, 3)
    nn.init.zeros_(conv.weight)
    new = chain(conv)
    assert not merged_kernel(new).any()
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(new(x), conv(x))


@pytest.mark.parametrize("name", ["conv_svd", "tucker2", "cp"])
def test_groups_are_refused(name):
    with pytest.raises(ValueError, match="conv must have groups=1, got groups=2"):
        CHAINS[name](nn.Conv2d(4, 4, 3, groups=2))


def test_ranks_are_refused():
    conv = nn.Conv2d(4, 5, (3, 2))
    for call, name, largest in (
        (lambda k: spatial_separable(conv, k), "rank", 10),
        (lambda k: conv_svd(conv, k), "rank", 5),
        (lambda k: tucker2(conv, k, 1), "rank_in", 4),
        (lambda k: tucker2(conv, 1, k), "rank_out", 5),
        (lambda k: cp(conv, k), "rank", 24),
    ):
        for rank in (0, largest + 1):
            message = f"^{name} must be from 1 to {largest}, got {rank}$"
            with pytest.raises(ValueError, match=message):
                call(rank)
        with pytest.raises(TypeError, match=f"^{name} must be an integer"):
            call(1.5)
    for argument in ("starts", "max_iterations"):
        with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
            cp(conv, 1, **{argument: 0})
    with pytest.raises(TypeError, match="chain must hold Conv2d and nothing else"):
        merged_kernel(nn.Sequential(conv, nn.ReLU()))


def test_cp_that_is_not_finite_is_refused():
    conv = nn.Conv2d(4, 5, 3)
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="no start led to a finite CP decomposition of rank 2"):
        cp(conv, 2)


def test_a_depthwise_kernel_by_hand():
    """Each channel's kernel [1, 2]ᵀ [3, 4] is one column times one row."""
    conv = nn.Conv2d(2, 2, 2, groups=2, bias=False, dtype=torch.float64)
    kernel = torch.tensor([[3.0, 4.0], [6.0, 8.0]], dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(torch.stack([kernel, -kernel])[:, None])
    chain = spatial_separable(conv, 1)
    column, row = chain[0].weight[0, 0, :, 0], chain[1].weight[0, 0, 0]
    torch.testing.assert_close(column[1] / column[0], torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(row[1] / row[0], torch.tensor(4 / 3, dtype=torch.float64))
    same_function(chain, conv)
    gram = torch.eye(4, dtype=torch.float64)
    full = nn.Conv2d(1, 2, 2, dtype=torch.float64)
    expected = whitened_rank_k(full.weight.flatten(1), 1, gram).reconstruct()
    torch.testing.assert_close(merged_kernel(conv_svd(full, 1, gram)).flatten(1), expected)
