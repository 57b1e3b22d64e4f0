"""The int8 product is exact, on processors with 8-bit dot products and on those without."""

from __future__ import annotations

import subprocess
import sys
import timeit

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtools.int8_matmul import int8_matmul, is_int_mm_exact

CHECK = """
import os, sys
import torch
from qtools import int8_matmul as module
from qtools.int8_matmul import int8_matmul
module.is_int_mm_fast = lambda dtype: True  # or older instructions would not be asked

def check():
    for k in (1, 2, 3, 17, 64, 577, 1024, 1025, 3000):
        for low, high in ((-128, -127), (127, 128), (-128, 128)):
            x = torch.randint(low, high, (5, k), dtype=torch.int8)
            w = torch.randint(-128, 128, (7, k), dtype=torch.int8)
            for other in (w, torch.full_like(w, -128), torch.full_like(w, 127)):
                for codes in (x, x.view(torch.uint8)):
                    exact = codes.long() @ other.long().t()
                    assert torch.equal(int8_matmul(codes, other).long(), exact), k

for isa in sys.argv[1:]:
    if os.fork() == 0:  # torch is imported once; oneDNN asks for it when it is first called
        os.environ["ONEDNN_MAX_CPU_ISA"] = isa
        check()
        print(isa, "exact", flush=True)
        os._exit(0)
    os.wait()
"""


def use_int_mm(monkeypatch, exact):
    """Take `torch._int_mm` for these types, however slow it is here, and for no others."""
    monkeypatch.setattr("qtools.int8_matmul.is_int_mm_exact", exact.__contains__)
    monkeypatch.setattr("qtools.int8_matmul.is_int_mm_fast", lambda dtype: True)


@given(st.integers(0, 9), st.integers(0, 1100), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_equal_to_64_bit_integers(rows, k, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    x, w = (
        torch.randint(-128, 128, (n, k), generator=generator).to(torch.int8)
        for n in (rows, columns)
    )
    for codes in (x, x.view(torch.uint8)):
        assert torch.equal(int8_matmul(codes, w).long(), codes.long() @ w.long().t())


@pytest.mark.parametrize("exact", [(), (torch.int8,), (torch.int8, torch.uint8)], ids=str)
def test_equal_on_processors_that_are_exact_for_some_types(monkeypatch, exact):
    if not is_int_mm_exact(torch.int8):
        pytest.skip("this processor is exact for neither")
    use_int_mm(monkeypatch, [d for d in exact if is_int_mm_exact(d)])
    torch.manual_seed(0)
    for k in (1, 2, 512, 513, 1500):
        x = torch.randint(0, 256, (5, k), dtype=torch.uint8)
        x[0] = 255
        w = torch.randint(-128, 128, (7, k), dtype=torch.int8)
        w[0] = -128
        w[1] = 127
        for codes in (x, x.view(torch.int8)):
            assert torch.equal(int8_matmul(codes, w).long(), codes.long() @ w.long().t())


@pytest.mark.parametrize("rows", [2047, 2048, 4100])
def test_equal_for_more_rows_than_go_through_floating_point_at_a_time(monkeypatch, rows):
    use_int_mm(monkeypatch, [])
    torch.manual_seed(0)
    x = torch.randint(0, 256, (rows, 513), dtype=torch.uint8)
    w = torch.randint(-128, 128, (3, 513), dtype=torch.int8)
    for codes in (x, x.view(torch.int8), x.t().contiguous().t()):
        assert torch.equal(int8_matmul(codes, w).long(), codes.long() @ w.long().t())


def test_takes_the_faster_of_two_exact_ways():
    x, w = torch.ones(2000, 288, dtype=torch.int8), torch.ones(64, 288, dtype=torch.int8)

    def seconds(way):
        return min(timeit.repeat(way, number=1, repeat=5))

    in_float = seconds(lambda: x.float() @ w.float().t())
    assert seconds(lambda: int8_matmul(x, w)) <= 2 * in_float


@pytest.mark.slow
def test_exact_whatever_instructions_the_processor_has():
    """oneDNN is told to use older instructions: with some of them `torch._int_mm` is wrong."""
    isas = ["SSE41", "AVX2", "AVX512_CORE", "DEFAULT"]
    run = subprocess.run(
        [sys.executable, "-c", CHECK, *isas], capture_output=True, text=True, check=False
    )
    assert run.stdout.splitlines() == [f"{isa} exact" for isa in isas], run.stderr


def test_exact_when_the_user_allows_coarse_float_products():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        x = torch.full((3, 1), -127, dtype=torch.int8)  # K = 1 takes the floating-point way
        assert torch.equal(int8_matmul(x, x), torch.full((3, 3), 127**2, dtype=torch.int32))
    finally:
        torch.set_float32_matmul_precision(before)
