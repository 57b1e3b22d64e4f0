"""Sparse storage: nothing lost, true byte counts, and where it begins to pay."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtools.pruning import CSR, Bitmap, bitmap_pays, csr_pays

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8)


@pytest.mark.parametrize("form", [Bitmap, CSR])
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(1, 1), (3, 10), (7, 5), (4, 3, 2, 2), (1, 40000), (0, 4)]),
    dtype=st.sampled_from(DTYPES),
    share=st.floats(0, 1),
)
def test_round_trip_and_bytes(form, seed, shape, dtype, share):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(1, 100, shape, generator=generator).to(dtype)
    weight *= torch.rand(shape, generator=generator) >= share
    stored = form.encode(weight)
    back = stored.decode()
    assert back.dtype == dtype
    assert torch.equal(back, weight)
    filled, columns = int((weight != 0).sum()), weight[:1].numel()
    if form is Bitmap:
        assert stored.nbytes == -(-weight.numel() // 8) + filled * dtype.itemsize
    else:
        index = 2 if columns <= 32768 else 4
        assert stored.nbytes == 4 * (shape[0] + 1) + filled * (dtype.itemsize + index)
    assert stored.nbytes == sum(t.nbytes for t in stored if isinstance(t, torch.Tensor))


def test_bits_are_least_significant_first():
    weight = torch.tensor([[0.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 7.0]])
    assert Bitmap.encode(weight).bits.tolist() == [0b10, 0b1]


def test_csr_by_hand():
    stored = CSR.encode(torch.tensor([[0.0, 5.0], [0.0, 0.0], [7.0, 8.0]]))
    assert stored.starts.tolist() == [0, 1, 1, 3]
    assert stored.columns.tolist() == [1, 0, 1]
    assert stored.values.tolist() == [5, 7, 8]
    assert torch.equal(
        torch.sparse_csr_tensor(stored.starts, stored.columns.int(), stored.values).to_dense(),
        stored.decode(),
    )


@pytest.mark.parametrize(("dtype", "bits"), [(torch.int8, 8), (torch.float16, 16),
                                             (torch.float32, 32)])  # fmt: skip
@pytest.mark.parametrize("form", [Bitmap, CSR])
def test_it_pays_exactly_beyond_the_stated_sparsity(form, dtype, bits):
    shape = (64, 128)
    pays = bitmap_pays(bits) if form is Bitmap else csr_pays(bits, shape)
    dense = shape[0] * shape[1] * bits // 8
    for zeros in (int(pays * 8192) - 8, int(pays * 8192) + 8):
        weight = torch.ones(8192, dtype=dtype)
        weight[:zeros] = 0
        smaller = form.encode(weight.reshape(shape)).nbytes < dense
        assert smaller == (zeros / 8192 > pays)


def test_what_a_column_number_costs():
    assert bitmap_pays(32) == 1 / 32
    # Large matrices, 16-bit columns: 1 - 32 / 48 of float32, and 1 - 8 / 24 of 8 bits.
    assert csr_pays(32, (4096, 4096)) == pytest.approx(1 / 3, abs=2e-4)
    assert csr_pays(8, (4096, 4096)) == pytest.approx(2 / 3, abs=4e-4)
