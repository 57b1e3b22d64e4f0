"""The networks that every method in the book is tried on."""

import json
from pathlib import Path
from typing import Self

import safetensors.torch
from torch import Tensor, nn

from qtools.files import sha256

#: Trained weights (safetensors) and ``sha256.json``, their hashes by file name.
WEIGHTS = Path(__file__).parent / "weights"


class SmallCNN(nn.Module):
    """Three 3×3 convolutions with BatchNorm, then two linear layers: 98,554 parameters.

    Input float32 [n, 1, 28, 28] from `data.normalise`, output float32 [n, 10]: one logit a class.
    Three quarters of the parameters are ``fc1.weight`` [128, 576], the book's running matrix.

    Parameters
    ----------
    width
        Factor on every number of channels and hidden units, rounded. At 0.5 the network has
        25,090 parameters, at 0.25 it has 6,502.

    Raises
    ------
    ValueError
        If a layer would be left without channels.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c1, c2, c3, hidden = (round(width * n) for n in (16, 32, 64, 128))
        if c1 < 1:
            raise ValueError(f"width must leave each layer a channel, got {width}: at least 1/16")
        self.pool = nn.MaxPool2d(2)
        self.conv1 = nn.Conv2d(1, c1, 3, padding=1, bias=False)  # BatchNorm adds the bias
        self.bn1 = nn.BatchNorm2d(c1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(c1, c2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c2)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(c3)
        self.relu3 = nn.ReLU()
        self.fc1 = nn.Linear(9 * c3, hidden)  # c3 channels of 3 × 3 pixels
        self.relu4 = nn.ReLU()
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))  # [n, 16, 14, 14] at width 1
        x = self.pool(self.relu2(self.bn2(self.conv2(x))))  # [n, 32, 7, 7]
        x = self.pool(self.relu3(self.bn3(self.conv3(x))))  # [n, 64, 3, 3]
        x = self.relu4(self.fc1(x.flatten(1)))  # [n, 128]
        return self.fc2(x)

    @classmethod
    def pretrained(cls) -> Self:
        """The trained network that comes with the package, in eval mode.

        Raises
        ------
        RuntimeError
            If the file's SHA-256 is not the one recorded when it was trained.
        """
        content = (WEIGHTS / "smallcnn.safetensors").read_bytes()
        expected = json.loads((WEIGHTS / "sha256.json").read_text())["smallcnn.safetensors"]
        if (actual := sha256(content)) != expected:
            raise RuntimeError(
                f"smallcnn.safetensors is damaged: SHA-256 {actual}, not {expected}; "
                "install the package again"
            )
        model = cls()
        model.load_state_dict(safetensors.torch.load(content))
        return model.eval()
