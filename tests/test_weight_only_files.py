"""Files of weights of a few bits: exact, shared where the model shares, refused when damaged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qtools.models import CharGPT
from qtools.weight_only import load_, quantize_weights, save
from tests.weight_only_networks import BATCHES, chargpt, out


@pytest.mark.parametrize(
    ("method", "bits"), [("rtn", 1), ("rtn", 8), ("gptq", 2), ("gptq", 3), ("awq", 3), ("awq", 4)]
)
def test_saved_and_loaded_it_is_the_same(method, bits, tmp_path):
    model, path = chargpt().half(), tmp_path / "model.safetensors"
    quantize_weights(model, method, bits, 12, calibration=[b[:1] for b in BATCHES[:1]])
    size = save(model, path)
    content = path.read_bytes()
    assert size == len(content)
    data = sum(t.nbytes for t in model.state_dict().values())
    assert size == data + 8 + int.from_bytes(content[:8], "little")
    fresh = chargpt(1).half()
    load_(fresh, path)
    ours, theirs = model.state_dict(), fresh.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    load_(fresh, path)  # also onto a model that is quantized already
    x = model.float(), fresh.float()
    assert torch.equal(out(x[0]), out(x[1]))
    save(model.half(), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content


def test_a_damaged_file_or_another_network_changes_nothing(tmp_path):
    model, path = chargpt(), tmp_path / "file"
    quantize_weights(model, "rtn", 3)
    save(model, path)
    content = path.read_bytes()
    fresh = chargpt(1)
    before = out(fresh)
    length = 8 + int.from_bytes(content[:8], "little")
    for place in [3, 20, length // 2, length + 5, len(content) - 1]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        with pytest.raises(ValueError, match="file"):
            load_(fresh, path)
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"not a whole file from weight_only\.save"):
        load_(fresh, path)
    path.write_bytes(content)
    others = [
        (CharGPT("abcdefghij", width=24, layers=1, heads=4, context=16), "no linear layer 'blocks"),
        (CharGPT("abcdefghij", width=48, layers=2, heads=4, context=16), "must map 48 to 48"),
        (CharGPT("abcdefgh", width=24, layers=2, heads=4, context=16), "embedding.weight must be"),
        (chargpt().half(), "embedding.weight must be"),
    ]
    for other, named in others:
        with pytest.raises(ValueError, match=named):
            load_(other, path)
    with pytest.raises(FileNotFoundError):
        load_(fresh, tmp_path / "nothing")
    assert torch.equal(out(fresh), before)
    with pytest.raises(ValueError, match="must have WeightOnlyLinear layers"):
        save(fresh, path)


def test_shared_layers_stay_shared(tmp_path):
    torch.manual_seed(0)
    twice = nn.Linear(8, 8)
    model = nn.Sequential(twice, nn.ReLU(), twice, nn.Linear(8, 2))
    report = quantize_weights(model, "gptq", 4, calibration=[torch.randn(20, 8)])
    assert model[0] is model[2]
    assert [layer.names for layer in report.layers] == [("0", "2"), ("3",)]
    save(model, tmp_path / "file")
    again = nn.Linear(8, 8)
    fresh = nn.Sequential(again, nn.ReLU(), again, nn.Linear(8, 2))
    load_(fresh, tmp_path / "file")
    assert fresh[0] is fresh[2]
    x = torch.randn(3, 8)
    assert torch.equal(fresh(x), model(x))
    apart = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    load_(apart, tmp_path / "file")
    assert torch.equal(apart(x), model(x))
