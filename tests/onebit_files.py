"""A small network with everything that a OneBit file has to cope with, and files taken apart."""

from __future__ import annotations

import hashlib
import json
import re

import torch
from torch import nn

from qtools.onebit import convert_, pack_


class Net(nn.Module):
    """Everything a file has to cope with: ties, a shared module, buffers, no bias, no norm."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(13, 10)
        self.first = nn.Linear(10, 70)
        self.again = nn.ModuleList([nn.Linear(70, 70, bias=False)] * 2)
        self.norm = nn.BatchNorm1d(70)
        self.last = nn.Linear(70, 10)
        self.lm_head = nn.Linear(10, 13, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, x):
        x = self.first(self.embed(x))
        for layer in self.again:
            x = layer(x)
        return self.lm_head(self.last(self.norm(x)))


INPUT = torch.arange(13)


def net(seed=0, packed=True, **kwargs):
    torch.manual_seed(seed)
    model = Net().eval()
    convert_(model, **kwargs)
    if packed:
        pack_(model)
    return model


def seal(content):
    """Give a file the checksum that its content asks for, as a forger would."""
    blank, found = re.subn(
        rb'sha256\\":\\"[0-9a-f]{64}', b'sha256\\":\\"' + b"0" * 64, content, count=1
    )
    digest = hashlib.sha256(blank).hexdigest().encode()
    return (
        blank.replace(b'sha256\\":\\"' + b"0" * 64, b'sha256\\":\\"' + digest, 1)
        if found
        else content
    )


def split(content):
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["onebit"]), content[8 + length :]


def join(header, metadata, data):
    if metadata is not None:
        header = {**header, "__metadata__": {"onebit": json.dumps(metadata, separators=(",", ":"))}}
    raw = json.dumps(header, separators=(",", ":")).encode()
    return seal(len(raw).to_bytes(8, "little") + raw + data)
