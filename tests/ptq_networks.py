"""Small networks of the families that are deployed, with statistics as training leaves them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResNet(nn.Module):
    """Residual blocks, functional and in-place ReLU, one ReLU module called many times."""

    class Block(nn.Module):
        def __init__(self, c_in: int, c_out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(c_out)
            self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(c_out)
            self.relu = nn.ReLU(inplace=True)
            self.down = nn.Identity()
            if stride != 1 or c_in != c_out:
                self.down = nn.Sequential(
                    nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
                )

        def forward(self, x: Tensor) -> Tensor:
            out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            out += self.down(x)
            return self.relu(out)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 7, 2, 3, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(self.Block(16, 16, 1), self.Block(16, 32, 2))
        self.avg = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn(self.conv(x)), inplace=True))
        x = torch.flatten(self.avg(self.blocks(x)), 1)
        return self.fc(x)


class MobileNetV2(nn.Module):
    """Inverted residuals with depthwise convolutions, ReLU6, a mean for pooling, dropout."""

    class Block(nn.Module):
        def __init__(self, c_in: int, c_out: int, stride: int) -> None:
            super().__init__()
            c = 4 * c_in
            self.residual = stride == 1 and c_in == c_out
            self.layers = nn.Sequential(
                nn.Conv2d(c_in, c, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU6(),
                nn.Conv2d(c, c, 3, stride, 1, groups=c, bias=False), nn.BatchNorm2d(c), nn.ReLU6(),
                nn.Conv2d(c, c_out, 1, bias=False), nn.BatchNorm2d(c_out),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layers(x) if self.residual else self.layers(x)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
        )
        self.blocks = nn.Sequential(self.Block(8, 8, 1), self.Block(8, 16, 2),
                                    self.Block(16, 16, 1))  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(x)).mean([2, 3]))


class EfficientNet(nn.Module):
    """Swish after every convolution, and squeeze-excite, which multiplies activations."""

    class Block(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.dw = nn.Conv2d(c, c, 5, 1, 2, groups=c, bias=False)
            self.bn1 = nn.BatchNorm2d(c)
            self.act = nn.SiLU(inplace=True)
            self.squeeze = nn.AdaptiveAvgPool2d(1)
            self.reduce = nn.Conv2d(c, c // 4, 1)
            self.expand = nn.Conv2d(c // 4, c, 1)
            self.project = nn.Conv2d(c, c, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(c)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.bn1(self.dw(x)))
            s = torch.sigmoid(self.expand(self.act(self.reduce(self.squeeze(y)))))
            return x + self.bn2(self.project(s * y))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(self.Block(16), self.Block(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn(self.stem(x)))
        return self.head(F.adaptive_avg_pool2d(self.blocks(x), 1).view(x.size(0), -1))


class DenseNet(nn.Module):
    """BatchNorm before the convolution, concatenation, average pooling, a shared module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding="same")
        self.norm = nn.BatchNorm2d(8)
        self.grow = nn.Conv2d(8, 8, 3, padding=1)
        self.mix = nn.Conv2d(16, 8, 1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.grow(torch.relu(self.norm(x)))
        x = self.mix(torch.cat([x, y], 1)).relu()
        x = F.relu(self.shared(F.relu(self.shared(x))))
        x = F.avg_pool2d(x, 2)
        x = F.adaptive_avg_pool2d(x, 4)
        return self.fc(x.reshape(x.shape[0], -1))


class ShuffleNet(nn.Module):
    """Channels split in two, joined and shuffled by view and transpose; all on codes."""

    class Unit(nn.Module):
        def __init__(self, c: int, stride: int) -> None:
            super().__init__()
            self.stride, inner = stride, c // 2 if stride == 1 else c
            self.right = nn.Sequential(
                nn.Conv2d(inner, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(True),
                nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
                nn.BatchNorm2d(inner), nn.Conv2d(inner, inner, 1), nn.ReLU(True),
            )  # fmt: skip
            self.left = nn.Conv2d(c, c, 3, stride, 1, groups=c) if stride > 1 else nn.Sequential()

        def forward(self, x: Tensor) -> Tensor:
            left, right = x.chunk(2, dim=1) if self.stride == 1 else (x, x)
            y = torch.cat((self.left(left), self.right(right)), dim=1)
            n, c, h, w = y.size()
            y = torch.transpose(y.view(n, 2, c // 2, h, w), 1, 2).contiguous()
            return y.view(n, c, h, w)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.units = nn.Sequential(self.Unit(16, 2), self.Unit(32, 1), self.Unit(32, 1))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn(self.stem(x)))
        return self.head(self.units(x).mean([2, 3]))


class ConvNeXt(nn.Module):
    """LayerNorm, GELU and layer scale stay in float between integer layers, channels last."""

    class Block(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.dw = nn.Conv2d(c, c, 7, padding=3, groups=c)
            self.norm, self.act = nn.LayerNorm(c), nn.GELU()
            self.up, self.down = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
            self.gamma = nn.Parameter(torch.full((c,), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.dw(x).permute(0, 2, 3, 1))
            y = self.gamma * self.down(self.act(self.up(y)))
            x += y.permute(0, 3, 1, 2)
            return x

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.Sequential(self.Block(16), self.Block(16))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x)).mean([-2, -1])))


NETWORKS = (ResNet, MobileNetV2, EfficientNet, DenseNet, ShuffleNet, ConvNeXt)
#: What each has that has no integer form.
FLOAT = {
    EfficientNet: {"silu", "SiLU", "sigmoid", "mul", "AdaptiveAvgPool2d"},
    ConvNeXt: {"LayerNorm", "GELU", "mul", "permute"},
}


def trained_like(network: type[nn.Module], seed: int) -> nn.Module:
    """A network in eval mode whose BatchNorms hold the statistics of what goes through them."""
    torch.manual_seed(seed)
    m = network()
    for module in m.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
            module.momentum = None
    with torch.no_grad():
        for _ in range(4):
            m(images(16))
    return m.eval()


def images(n: int) -> Tensor:
    """Smooth random images, as natural ones are."""
    return F.interpolate(torch.randn(n, 3, 8, 8), size=(32, 32), mode="bilinear") * 1.5
