"""Every path of the one-bit products against float64, within the error of a float32 sum."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools import kernels
from qtools.kernels.bits import pack_signs, row_bytes
from qtools.onebit import sign
from tests.roundings import gamma

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def require(path):
    """Skip what cannot run here, with the reason."""
    why = kernels.info().unavailable.get(path)
    if why is not None:
        pytest.skip(f"{path}: {why}")


def compare(y, x, w, g=None, h=None):
    """y is h * (S (g * x)) within n + 3 roundings of the wide type and one of y's own."""
    wide = torch.promote_types(x.dtype, torch.float32)
    g = torch.ones(w.shape[1]) if g is None else g
    h = torch.ones(w.shape[0]) if h is None else h
    u, h = x.double() * g.double(), h.double()
    exact = (u @ sign(w).double().T) * h
    size = u.abs().sum(-1, keepdim=True) * h.abs()
    tiny = torch.finfo(y.dtype).smallest_normal * torch.finfo(y.dtype).eps
    allowed = gamma(w.shape[1] + 3, wide) * size
    if y.dtype != wide:
        allowed = allowed + (exact.abs() + allowed) * torch.finfo(y.dtype).eps / 2 + tiny
    assert y.dtype == x.dtype
    assert y.shape == exact.shape
    assert ((y.double() - exact).abs() <= allowed + 1e-300).all()


paths = pytest.mark.parametrize("path", [p for p in kernels.paths.PATHS if p != "triton"])


@paths
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_path_is_the_product_with_signs(path, data):
    require(path)
    rows = data.draw(st.one_of(st.integers(0, 40), st.sampled_from([64, 129, 300])))
    columns = data.draw(st.one_of(st.integers(1, 140), st.sampled_from([255, 256, 1027])))
    batch = data.draw(st.sampled_from([(), (0,), (1,), (2, 3), (3,), (4,), (9,), (17,), (2, 0)]))
    dtype = data.draw(st.sampled_from(DTYPES))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    x, w = torch.randn(*batch, columns).to(dtype), torch.randn(rows, columns)
    g, h = torch.randn(columns), torch.randn(rows).half()
    bits = pack_signs(w)
    if data.draw(st.booleans()):  # nothing is aligned, and nothing lies together
        x = torch.randn(*batch, 2 * columns + 1).to(dtype)[..., 1::2]
        store = torch.zeros(rows, bits.shape[1] + 3, dtype=torch.uint8)
        store[:, 1:-2] = bits
        bits = store[:, 1:-2]
        g = torch.stack([g, g], -1)[:, 0]
    with kernels.use(path):
        compare(kernels.sign_matmul(x, bits, columns), x, w)
        compare(kernels.onebit_linear(x, bits, g, h), x, w, g, h)


@paths
def test_infinite_and_undefined_inputs_stay_what_they_are(path):
    require(path)
    w = torch.randn(40, 70)
    x = torch.randn(3, 70)
    x[0, 5], x[1, 69] = math.inf, math.nan
    with kernels.use(path):
        y = kernels.sign_matmul(x, pack_signs(w), 70)
    assert torch.equal(y[0], math.inf * sign(w[:, 5]))
    assert y[1].isnan().all()
    assert y[2].isfinite().all()


@pytest.mark.parametrize("name", ["sign_matmul", "onebit_linear"])
def test_the_ops_are_what_torch_demands_of_an_op(name):
    torch.manual_seed(0)
    bits, x = pack_signs(torch.randn(6, 21)), torch.randn(2, 3, 21, requires_grad=True)
    vectors = torch.randn(21, requires_grad=True), torch.randn(6, requires_grad=True)
    rest = (21,) if name == "sign_matmul" else vectors
    torch.library.opcheck(getattr(torch.ops.qtools, name).default, (x, bits, *rest))


def test_gradients_of_input_and_vectors():
    torch.manual_seed(0)
    w = torch.randn(3, 10, dtype=torch.float64)
    bits = pack_signs(w)
    x, g, h = (torch.randn(n, dtype=torch.float64, requires_grad=True) for n in (10, 10, 3))
    x = torch.stack([x, 2 * x]).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kernels.sign_matmul(x, bits, 10), (x,))
    assert torch.autograd.gradcheck(lambda *a: kernels.onebit_linear(a[0], bits, *a[1:]), (x, g, h))
    # float16 vectors around a float32 input, as in a packed layer
    x32, h16 = x.detach().float().requires_grad_(), h.detach().half().requires_grad_()
    kernels.onebit_linear(x32, bits, g.detach().half(), h16).sum().backward()
    assert x32.grad.dtype == torch.float32
    assert h16.grad.dtype == torch.float16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 9)}, ValueError, r"x must have the shape \[\.\.\., 10\]"),
        ({"x": torch.zeros(2, 10).int()}, TypeError, "x must be float16"),
        ({"x": torch.zeros(())}, ValueError, "x must have the shape"),
        ({"x": torch.zeros(2, 10, device="meta")}, ValueError, "bits must be on the device of x"),
        ({"bits": torch.zeros(3, 8)}, TypeError, "bits must be uint8"),
        ({"bits": torch.zeros(3, 9).byte()}, ValueError, r"bits must have the shape \[out, 8\]"),
        ({"g": torch.zeros(10).int()}, TypeError, "g must be floating point"),
        ({"g": torch.zeros(2, 5)}, ValueError, "g must be a vector"),
        ({"h": torch.zeros(2)}, ValueError, r"h must have the shape \[3\]"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, error, message):
    parts = {
        "x": torch.zeros(2, 10),
        "bits": torch.zeros(3, row_bytes(10), dtype=torch.uint8),
        "g": torch.ones(10),
        "h": torch.ones(3),
    }
    with pytest.raises(error, match=message):
        kernels.onebit_linear(**{**parts, **change})
    if not {"g", "h"} & change.keys():
        parts = {**parts, **change}
        with pytest.raises(error, match=message):
            kernels.sign_matmul(parts["x"], parts["bits"], 10)
    with pytest.raises(ValueError, match="in_features must be at least 1"):
        kernels.sign_matmul(torch.zeros(0), torch.zeros(3, 0).byte(), 0)


def test_paths_are_chosen_by_name_and_explain_themselves():
    before = kernels.info()
    assert before.path in before.available
    assert set(before.available) | before.unavailable.keys() == set(kernels.paths.PATHS)
    with kernels.use("reference"), kernels.use("table"):
        assert kernels.info().path == "table"
        assert "forced" in str(kernels.info())
    assert kernels.info() == before
    with pytest.raises(ValueError, match="path must be one of reference, table"), kernels.use("x"):
        pass
    for path, why in before.unavailable.items():
        with pytest.raises(RuntimeError, match=f"path {path} cannot run here"), kernels.use(path):
            pass
        assert why in str(before)


@pytest.mark.parametrize("way", ["compile", "export"])
def test_graphs_hold_the_op_whole(way):
    torch.manual_seed(0)
    w = torch.randn(6, 21)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("bits", pack_signs(w))

        def forward(self, x, g, h):
            return kernels.onebit_linear(x.relu(), self.bits, g, h)

    x, g, h = torch.randn(4, 21), torch.randn(21), torch.randn(6)
    if way == "compile":
        found = torch.compile(Layer(), backend="aot_eager", fullgraph=True)(x, g, h)
    else:
        program = torch.export.export(Layer(), (x, g, h))
        assert "qtools.onebit_linear" in str(program.graph)
        found = program.module()(x, g, h)
    compare(found, x.relu(), w, g, h)


def test_the_page_of_the_format_says_what_is_so():
    page = (Path(__file__).parent.parent / "book" / "onebit_format.md").read_text(encoding="utf-8")
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "onebit_format.md", "exec"), names)
    for row, octets in zip(names["rows"], names["bits"].tolist(), strict=True):
        set_bits = ", ".join(str(j) for j, c in enumerate(row) if c == "-")
        (line,) = [x for x in page.splitlines() if f"| `{row}` |" in x]
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[2] == set_bits
        assert [int(cell.split("= ")[-1]) for cell in cells[3:]] == octets[:2]
