"""Small networks of many forms: channels joined, tied, cut, moved; some cannot be followed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def block(c_in: int, c_out: int, kernel: int = 3, **options: int) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Transposed convolution, resizing to the size of another tensor, skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 6), block(6, 8), block(8, 10)
        self.up, self.d1 = nn.ConvTranspose2d(10, 7, 2, 2), block(15, 8)
        self.d2, self.out = block(14, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        y = self.d1(torch.cat([self.up(self.c(F.avg_pool2d(b, 2))), b], 1))
        y = F.interpolate(y, size=a.shape[2:], mode="bilinear")
        return self.out(self.d2(torch.cat((y, a), dim=1)))


class TwoBranches(nn.Module):
    """A sum of three, in place, one of the terms a grouped bottleneck; a mean from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = block(3, 8), block(8, 8), nn.Conv2d(8, 8, 1)
        self.g, self.n, self.c = block(8, 12, groups=4), nn.BatchNorm2d(8), nn.Conv2d(12, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.add(self.a(x), self.b(x))
        y += self.n(self.c(self.g(x)))
        return self.fc(F.hardswish(y).mean((-2, -1)))


class Depthwise(nn.Module):
    """Several filters a channel, on the image itself too; two paths summed at the output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.d = block(3, 6), nn.Conv2d(6, 18, 3, groups=6, padding=1)
        self.n, self.out = nn.BatchNorm2d(18), nn.Conv2d(18, 2, 1)
        self.image, self.mix = nn.Conv2d(3, 6, 3, groups=3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu6(self.n(self.d(self.a(x))))) + self.mix(self.image(x))


class Shared(nn.Module):
    """One convolution called twice between two BatchNorms, one weight in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = block(3, 8), nn.Conv2d(8, 8, 3, padding=1)
        self.n1, self.n2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.out, self.aux = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)
        self.aux.weight = self.out.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = F.relu(self.n2(self.c(F.relu(self.n1(self.c(x))))))
        return self.out(y) + self.aux(x)


class SqueezeExcite(nn.Module):
    """The form with view and expand_as, sizes unpacked; a second one with indexing, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.pool = block(3, 12), nn.Conv2d(12, 8, 1), nn.AdaptiveAvgPool2d(1)
        self.f = nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 12), nn.Sigmoid())
        self.g = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, c, _, _ = x.size()
        x = self.b(x * self.f(self.pool(x).view(b, c)).view(b, c, 1, 1).expand_as(x))
        x *= torch.sigmoid(self.g(x.mean((2, 3))))[:, :, None, None]
        return self.fc(self.pool(x)[..., 0, 0])


class Joined(nn.Module):
    """Branches in a list, concatenated, then a sum: each branch at its offset; the image too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 8)
        self.branches = nn.ModuleList([block(8, 4, 1), block(8, 6), block(8, 5, 1)])
        self.n, self.c = nn.BatchNorm2d(18), nn.Conv2d(18, 18, 1)
        self.out = nn.Linear(18, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = self.n(torch.cat([*(b(y) for b in self.branches), x], -3))
        y = y + self.c(F.relu(y))
        return self.out(torch.flatten(F.adaptive_avg_pool2d(y, (1, 1)), 1))


class Halves(nn.Module):
    """Gates made of halves (glu, chunk), a stack summed, PixelShuffle, ChannelShuffle, maxout."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 16, 1)
        self.c, self.d = nn.Conv2d(8, 16, 1), nn.Conv2d(4, 12, 1)
        self.mix, self.shuffle = nn.ChannelShuffle(2), nn.PixelShuffle(2)
        self.e, self.out = nn.Conv2d(6, 6, 1, groups=3), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.b(F.glu(self.a(x), 1)).chunk(2, 1)
        x = self.shuffle(self.c(torch.stack([a, torch.tanh(b)], 1).sum(1)))
        x = self.d(x)
        n, c, h, w = x.shape
        return self.out(self.e(self.mix(x.view(n, c // 2, 2, h, w).amax(2))))


class Parameters(nn.Module):
    """Parameters and buffers that are added and multiplied as they are; a weight computed."""

    class Scaled(nn.Conv2d):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight * self.gain, self.bias)

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bias, self.scale = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(1, 8, 1, 1))
        self.place = nn.Parameter(torch.randn(8, 8, 8))
        self.register_buffer("shift", torch.randn(8, 1, 1))
        self.slope, self.scaled, self.out = nn.PReLU(8), self.Scaled(8, 6, 3), nn.Linear(6, 2)
        self.kinds = nn.Embedding(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        kind = (x.sum((1, 2, 3)) > 0).long()
        x = (self.a(x) + self.bias.view(1, -1, 1, 1)) * self.scale + self.place - self.shift
        y = self.scaled(self.slope(x)).sum((2, 3))
        return self.out(y * self.kinds(kind))


class Norms(nn.Module):
    """Normalisation by groups of channels and by channel, with and without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16)
        self.b, self.i = nn.Conv2d(16, 8, 3), nn.InstanceNorm2d(8, affine=True)
        self.plain = nn.Sequential(nn.InstanceNorm2d(8), nn.GroupNorm(2, 8, affine=False))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.i(self.b(F.gelu(self.n(self.a(x))))))
        return self.fc(torch.max(F.softplus(x).max(3)[0], dim=2).values)


class Sequences(nn.Module):
    """One dimension: grouped, transposed in groups, BatchNorm1d of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = (
            nn.Conv1d(3, 8, 3),
            nn.BatchNorm1d(8),
            nn.Conv1d(8, 16, 3, groups=8),
        )
        self.t, self.l = nn.ConvTranspose1d(16, 8, 2, groups=4), nn.Linear(8 * 61, 10)
        self.m, self.out = nn.BatchNorm1d(10), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.t(self.b(F.leaky_relu(self.n(self.a(x.flatten(2))))))
        return F.log_softmax(self.out(torch.tanh(self.m(self.l(x.reshape(x.size(0), -1))))), 1)


class Decoder(nn.Module):
    """A linear layer whose features become channels; a padded convolution of one's own."""

    class Same(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(x, (1, 1, 1, 1), mode="reflect")
            return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)

    def __init__(self) -> None:
        super().__init__()
        self.l, self.t = nn.Linear(3 * 64, 6 * 16), nn.ConvTranspose2d(6, 8, 2, 2)
        self.d, self.out = self.Same(8, 8, 3, groups=8), self.Same(8, 2, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = F.relu(self.l(x.flatten(1))).view(x.size(0), -1, 4, 4)
        y = F.dropout(self.d(torch.sigmoid(self.t(y))), 0.5, self.training)
        return {"image": self.out(y), "class": self.out(y).argmax(1)}


class Attention(nn.Module):
    """Products of matrices: over queries and keys of one width, which shrinks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.q, self.k = block(3, 8), nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.v, self.gamma, self.out = nn.Conv2d(8, 8, 1), nn.Parameter(torch.ones(1)), block(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        n, c, h, w = x.size()
        q, k = self.q(x).view(n, -1, h * w).permute(0, 2, 1), self.k(x).view(n, -1, h * w)
        y = (self.v(x).flatten(2) @ torch.bmm(q, k).softmax(-1).transpose(1, 2)).view_as(x)
        return self.out(self.gamma * y + x.reshape(n, c, h, w))


FOLLOWED = (UNet, TwoBranches, Depthwise, Shared, SqueezeExcite, Joined, Halves, Parameters, Norms,
            Sequences, Decoder, Attention)  # fmt: skip


class Between(nn.Module):
    """A convolution, what is to be refused, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = block(3, 8), nn.Conv2d(8, 2, 1)
        self.norm, self.lrn, self.one = nn.LayerNorm(8), nn.LocalResponseNorm(3), nn.GroupNorm(1, 8)
        self.along, self.rnn = nn.Conv1d(1, 1, 3, padding=1), nn.LSTM(8, 8, batch_first=True)
        self.few, self.fc, self.wide = nn.Conv2d(4, 2, 1), nn.Linear(512, 2), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(self.between(x))

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class LayerNormed(Between):
    def between(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Responses(Between):
    def between(self, x: Tensor) -> Tensor:
        return self.lrn(x)


class OneGroup(Between):
    def between(self, x: Tensor) -> Tensor:
        return self.one(x)


class Softmax(Between):
    def between(self, x: Tensor) -> Tensor:
        return x.softmax(1)


class MeanOfChannels(Between):
    def between(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.mean(1, keepdim=True))


class AlongChannels(Between):
    def between(self, x: Tensor) -> Tensor:
        y = self.along(F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2))
        return x * y.transpose(-1, -2).unsqueeze(-1).expand_as(x)


class Recurrent(Between):
    def between(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x.flatten(2).transpose(1, 2))
        return y.transpose(1, 2).unsqueeze(-1)


class Sums(Between):
    def between(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,cd->ndhw", x, x[0, :, :, 0])


class Rolled(Between):
    def between(self, x: Tensor) -> Tensor:
        return torch.roll(x, 1, 1)


class Split(Between):
    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.a(x), 4, 1)
        return self.few(a * b)


class Sliced(Between):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.few(x[:, 4:])


class Written(Between):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.a(x).view(-1, 8 * 8 * 8))


class Padded(Between):
    def forward(self, x: Tensor) -> Tensor:
        return self.wide(F.pad(self.a(x), (0, 0, 0, 0, 2, 2)))


class Counted(Between):
    """Followed, but what it computes depends on the number of channels."""

    def between(self, x: Tensor) -> Tensor:
        return x / x.shape[1]


#: The node that the refusal names, by network.
REFUSED = {
    LayerNormed: "norm", Responses: "lrn", OneGroup: "one", Softmax: "softmax",
    MeanOfChannels: "mean", AlongChannels: "along", Recurrent: "rnn", Sums: "einsum",
    Rolled: "roll", Split: "split", Sliced: "getitem", Written: "view", Padded: "pad",
    Counted: "truediv",
}  # fmt: skip


def make(network: type[nn.Module], seed: int) -> nn.Module:
    """A network in float64 and eval mode, whose normalisations are not trivial."""
    torch.manual_seed(seed)
    m = network().double()
    for module in m.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return m.eval()


def example(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 8, 8, dtype=torch.float64)
