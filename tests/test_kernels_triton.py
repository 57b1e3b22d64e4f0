"""Triton's programs: values by its interpreter, or a GPU where there is one, and registers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qtools import kernels
from qtools.kernels import gpu
from qtools.kernels.bits import pack_signs, unpack_signs
from qtools.results import read_record
from tests.roundings import gamma
from tools.repository import ROOT

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = (torch.float16, torch.bfloat16)
run_here = pytest.mark.skipif(gpu.why_not() is not None, reason=f"triton: {gpu.why_not()}")


def triton():
    return pytest.importorskip("triton", reason="Triton is not installed")


def test_values_in_the_interpreter():
    """The tests below that need a GPU, in a process of its own where none is needed."""
    triton()
    if gpu.why_not() is None:
        pytest.skip("they run here")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0"]
    command += ["-p", "no:cacheprovider", "-p", "no:nbval"]  # the latter is slow to import
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [*command, "-k", "run_here", str(Path(__file__))],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout, done.stdout


@run_here
@pytest.mark.parametrize(
    ("dtype", "batch", "rows", "columns"),
    [
        # up to `gpu.FEW` rows of x by table, more by tiles; no size a multiple of anything
        (torch.float32, (), 67, 70),
        (torch.float16, (3,), 33, 515),
        (torch.bfloat16, (2,), 65, 3),
        (torch.float32, (2, 1, 3), 33, 71),
        (torch.float16, (17,), 5, 515),
        (torch.bfloat16, (9,), 70, 1),
    ],
    ids=lambda value: str(value).replace("torch.", ""),
)
def test_run_here_products_of_any_size(dtype, batch, rows, columns):
    torch.manual_seed(rows + columns)
    x, w = torch.randn(*batch, 2 * columns + 1)[..., 1::2].to(dtype), torch.randn(rows, columns)
    g, h = torch.randn(columns), torch.randn(rows).half()
    store = torch.zeros(rows, pack_signs(w).shape[1] + 3, dtype=torch.uint8, device=DEVICE)
    bits = store[:, 1:-2]  # nothing is aligned
    bits.copy_(pack_signs(w))
    x, g, h = (tensor.to(DEVICE) for tensor in (x, g, h))
    with kernels.use("triton"):
        compare(kernels.sign_matmul(x, bits, columns), x, bits)
        compare(kernels.onebit_linear(x, bits, g, h), x, bits, g, h)


def compare(y, x, bits, g=None, h=None):
    """Within the roundings of a float32 sum, of g x where tensor cores take it, and of y's type."""
    columns = x.shape[-1]
    g = torch.ones(columns, device=x.device) if g is None else g
    h = torch.ones(len(bits), device=x.device) if h is None else h
    u = x.double() * g.double()
    exact = (u @ unpack_signs(bits.contiguous(), columns, torch.float64).T) * h.double()
    size = u.abs().sum(-1, keepdim=True) * h.double().abs()
    own, tiny = torch.finfo(y.dtype).eps / 2, torch.finfo(y.dtype).smallest_normal
    if gpu.interpreted() and y.dtype == torch.bfloat16:
        own *= 2  # the interpreter cuts off where a GPU rounds
    tiles = x.dtype in HALF and x[..., 0].numel() > gpu.FEW
    # Tensor cores cut where others round: a unit for half a unit.
    allowed = (gamma(2 * columns + 6, torch.float32) + own * tiles) * size
    allowed = allowed + (exact.abs() + allowed) * own + tiny * columns
    assert (y.dtype, y.shape) == (x.dtype, exact.shape)
    assert ((y.double() - exact).abs() <= allowed).all()


@run_here
@pytest.mark.parametrize("batch", [3, 6])
def test_run_here_infinite_and_undefined_inputs_stay_what_they_are(batch):
    w, x = torch.randn(4, 70, device=DEVICE), torch.randn(batch, 70, device=DEVICE)
    x[0, 5], x[1, 69], x[2, 7] = math.inf, math.nan, torch.finfo(torch.float32).max
    with kernels.use("triton"):
        y = kernels.sign_matmul(x, pack_signs(w), 70)
        assert kernels.sign_matmul(x[:0], pack_signs(w), 70).shape == (0, 4)
        assert kernels.sign_matmul(x, pack_signs(w[:0]), 70).shape == (batch, 0)
    assert torch.equal(y[0], torch.where(w[:, 5] < 0, -math.inf, math.inf))
    assert y[1].isnan().all()
    assert y[2:].isfinite().all()


def test_what_triton_cannot_do_is_said(monkeypatch):
    x, bits = torch.ones(2, 3), pack_signs(torch.ones(4, 3))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(gpu, "_why_no_triton", lambda: "Triton is not installed")
    assert kernels.info().unavailable["triton"] == "Triton is not installed"
    with pytest.raises(RuntimeError, match="not installed"), kernels.use("triton"):
        pass
    assert torch.equal(kernels.sign_matmul(x, bits, 3), torch.full((2, 4), 3.0))
    monkeypatch.setattr(gpu, "_why_no_triton", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="x must be on a GPU, got cpu"):
        gpu.product(x, bits, 3, None, None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    turing = x.bfloat16().to("meta")
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"))
    assert "no bfloat16" in str(gpu.why_not_for(turing))
    assert "must be float16" in str(gpu.why_not_for(x.double()))
    assert gpu.why_not_for(x) is None
    assert gpu.few(torch.empty(99, 3, device="meta")), "Turing: Triton has no tensor cores there"


@pytest.mark.parametrize(
    ("program", "dtype", "target", "batch"),
    [
        ("table_product", "fp16", 75, 1),
        ("tile_product", "bf16", 90, 16),
        ("prepare", "fp32", 80, 0),
    ],
)
def test_programs_compile_without_a_spill(program, dtype, target, batch):
    triton()
    if gpu.interpreted():
        pytest.skip("the interpreter takes the compiler's place")
    from benchmarks import _gpu_compile

    case = next(
        case
        for case in _gpu_compile.cases()
        if (case.program, case.dtype, case.target) == (program, dtype, target)
        and case.constants.get("BATCH", 0) == batch
    )
    row = _gpu_compile.compiled(case)
    assert row["spilled_bytes"] == row["stack_bytes"] == 0
    assert 0 < row["registers"] < 255


def test_the_record_has_every_program_and_no_spill():
    triton()
    from benchmarks import _gpu_compile

    def key(row):
        return (row["program"], row["target"], row["warps"], *sorted(row["constants"].items()))

    rows = read_record("sign_matmul_gpu_compile")["rows"]
    assert all(row["spilled_bytes"] == row["stack_bytes"] == 0 for row in rows)
    cases = [(_gpu_compile.DTYPES[c.dtype], *key(c._asdict())) for c in _gpu_compile.cases()]
    assert [(row["dtype"], *key(row)) for row in rows] == cases


def test_instructions_of_the_innermost_loop_are_counted():
    triton()
    from benchmarks._gpu_compile import longest_loop

    code = ".L_x_1:\n{0}.L_x_2:\n{0}{0}@P0 BRA `(.L_x_2) ;\n{0}@P1 BRA `(.L_x_1) ;\n"
    line = "        /*0010*/                   FADD R1, R2, R3 ;\n"
    listing = code.format(line).replace("@P", "        /*0020*/              @P")
    assert longest_loop(listing) == 3
    assert longest_loop(line) == 0


@pytest.mark.parametrize(("flag", "status"), [([], 0), (["--write"], 1)])
def test_without_a_gpu_the_benchmark_measures_nothing(flag, status, monkeypatch, capsys):
    from benchmarks import sign_matmul_gpu

    monkeypatch.setattr(sys, "argv", ["sign_matmul_gpu", *flag])
    monkeypatch.setattr(gpu, "why_not", lambda: "there is no NVIDIA GPU")
    with pytest.raises(SystemExit) as stop:
        sign_matmul_gpu.main()
    assert stop.value.code == status
    assert "not measured: there is no NVIDIA GPU" in capsys.readouterr().out
