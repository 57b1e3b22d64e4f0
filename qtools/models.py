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
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)  # BatchNorm adds the bias
        self.bn1 = nn.BatchNorm2d(16)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.relu3 = nn.ReLU()
        self.fc1 = nn.Linear(576, 128)
        self.relu4 = nn.ReLU()
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))  # [n, 16, 14, 14]
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
