"""The library in C: no read past an end, codes that follow the bits, and life without it."""

from __future__ import annotations

import copy
import gc
import pickle
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from qtools import kernels
from qtools.kernels import build, native, paths
from qtools.kernels.bits import pack_signs, unpack_signs
from qtools.onebit import PackedOneBitLinear
from tools.repository import ROOT

DRIVER = Path(__file__).parent / "native" / "driver.c"
built = pytest.mark.skipif(
    isinstance(native.library(), str), reason=f"not built: {native.library()}"
)


def test_the_c_code_under_sanitizers_and_its_avx512_code_emulated(tmp_path):
    """Buffers end where values end; every path of this processor, and AVX-512's in C's vectors."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    command = [compiler, "-O1", "-std=gnu11", "-w", "-pthread", f"-I{DRIVER.parent}"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wno-psabi"]
    command += ["-DQTOOLS_EMULATE_AVX512", str(DRIVER), "-o", str(tmp_path / "driver"), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "asan" in done.stderr:
        pytest.skip(f"no sanitizers: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    done = subprocess.run([tmp_path / "driver"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "path 0\n" in done.stdout


def test_the_code_of_arm_on_an_emulated_processor(tmp_path):
    """The same driver, compiled for ARM: its NEON path has path number 3."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("no compiler or emulator for ARM: .ci/run names their Debian packages")
    command = [compiler, *build.FLAGS[:-2], "-static", "-w", str(DRIVER), "-lm"]
    subprocess.run([*command, "-o", str(tmp_path / "driver")], check=True)
    done = subprocess.run([emulator, tmp_path / "driver"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"path 0\npath {native.NUMBERS['neon']}\n"


def test_pip_and_the_command_compile_alike():
    (extension,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]["ext-modules"]
    assert [*extension["extra-compile-args"], "-fPIC", "-shared"] == list(build.FLAGS)
    folder = Path("qtools/kernels")
    assert [str(folder / build.SOURCE.name)] == extension["sources"]
    headers = sorted(str(folder / path.name) for path in build.SOURCE.parent.glob("*.h"))
    assert headers == sorted(extension["depends"])


def made(rows=40, columns=70):
    torch.manual_seed(0)
    w = torch.randn(rows, columns)
    return w, pack_signs(w), torch.randn(3, columns)


@built
def test_codes_are_made_once_follow_changes_and_die_with_the_bits():
    w, bits, x = made()
    with kernels.use("portable"):
        before = kernels.sign_matmul(x, bits, 70)
        entry = native._codes[id(bits)]
        kernels.sign_matmul(x, bits, 70)
        assert native._codes[id(bits)] is entry
        bits ^= 255
        torch.testing.assert_close(kernels.sign_matmul(x, bits, 70), -before)
        bits.copy_(pack_signs(w))
        torch.testing.assert_close(kernels.sign_matmul(x, bits, 70), before)
        bits.data = pack_signs(-w)
        torch.testing.assert_close(kernels.sign_matmul(x, bits, 70), -before)
        key = id(bits)
        del bits, entry
        gc.collect()
        assert key not in native._codes
        with torch.inference_mode():  # such tensors count no changes
            bits = pack_signs(w)
            torch.testing.assert_close(kernels.sign_matmul(x, bits, 70), before)
            bits ^= 255
            torch.testing.assert_close(kernels.sign_matmul(x, bits, 70), -before)


@built
def test_a_packed_layer_has_no_more_state_than_before():
    _, bits, x = made()
    layer = PackedOneBitLinear(bits, torch.ones(70).half(), torch.ones(40).half())
    names, size = list(layer.state_dict()), len(pickle.dumps(layer))
    y = layer(x)
    assert list(layer.state_dict()) == names
    assert len(pickle.dumps(layer)) == size
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), y)
        other.load_state_dict({**layer.state_dict(), "bits": bits ^ 255})
        torch.testing.assert_close(other(x), -y, atol=1e-5, rtol=1e-5)
        assert torch.equal(layer(x), y)


@built
def test_many_rows_and_threads_give_what_one_thread_gives():
    torch.manual_seed(0)
    bits = torch.randint(0, 256, (3000, 256), dtype=torch.uint8)
    threads = torch.get_num_threads()
    try:
        for batch in (1, 3, 21):
            x = torch.randn(batch, 2048)
            torch.set_num_threads(1)
            one = kernels.sign_matmul(x, bits, 2048)
            torch.set_num_threads(3)
            for _ in range(20):
                assert torch.equal(kernels.sign_matmul(x, bits, 2048), one)
    finally:
        torch.set_num_threads(threads)


def test_without_the_library_plain_torch_does_it_and_info_says_how_to_get_it(tmp_path, monkeypatch):
    w, bits, x = made()
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    native.library.cache_clear()
    paths._default.cache_clear()
    try:
        found = kernels.info()
        assert found.path == "table"
        assert "python -m qtools.kernels.build" in str(found)
        assert {"portable", "avx2", "avx512", "neon"} <= found.unavailable.keys()
        expected = x @ unpack_signs(pack_signs(w), 70).T
        torch.testing.assert_close(kernels.sign_matmul(x, bits, 70), expected)
        (tmp_path / "_native.so").write_bytes(b"no library")
        native.library.cache_clear()
        assert "cannot be loaded" in kernels.info().unavailable["portable"]
    finally:
        monkeypatch.undo()
        native.library.cache_clear()
        paths._default.cache_clear()
    monkeypatch.setenv("CC", "false")
    with pytest.raises(subprocess.CalledProcessError):
        build.build(tmp_path / "library.so")
    assert [p.name for p in tmp_path.iterdir()] == ["_native.so"]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_who_counts_maps_or_traces_sees_the_op():
    _, bits, x = made()
    g, h = torch.randn(70), torch.randn(40)
    expected = kernels.onebit_linear(x, bits, g, h)
    counter = FlopCounterMode(display=False)
    with counter:
        kernels.onebit_linear(x, bits, g, h)
    assert counter.get_total_flops() == 2 * 3 * 70 * 40
    mapped = torch.func.vmap(lambda x: kernels.onebit_linear(x, bits, g, h))(x)
    torch.testing.assert_close(mapped, expected)
    mapped = torch.func.vmap(lambda x: kernels.sign_matmul(x, bits, 70), in_dims=1)(x.T)
    torch.testing.assert_close(mapped, x @ unpack_signs(bits, 70).T)
    with pytest.raises(NotImplementedError, match="only x"):
        torch.func.vmap(lambda h: kernels.onebit_linear(x, bits, g, h))(torch.stack([h, h]))

    class Layer(nn.Module):
        def forward(self, x):
            return kernels.onebit_linear(x, bits, g, h)

    traced = torch.jit.trace(Layer(), (x,))
    torch.testing.assert_close(traced(2 * x), 2 * expected)
