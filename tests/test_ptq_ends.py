"""Inputs and outputs of the network keep 8 bits where activations have fewer."""

import pytest
import torch
from torch import nn

from qtools import QuantSpec, ptq
from qtools.observers import MinMaxObserver

FOUR, EIGHT = QuantSpec(4, signed=False), QuantSpec(8, signed=False)


class Net(nn.Module):
    """Two outputs, one of them a pooled and flattened activation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3)
        self.c = nn.Conv2d(2, 2, 3)
        self.pool, self.relu = nn.MaxPool2d(2), nn.ReLU()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.relu(self.a(x))
        hidden = self.relu(self.a(hidden[:, :1]))
        return self.pool(self.relu(self.b(hidden))).flatten(1), self.c(torch.sigmoid(hidden))


def bits(recipe: ptq.Recipe) -> dict[str, int]:
    p = ptq.prepare(Net(), recipe)
    return {
        name.removeprefix("observer_"): observer.spec.bits
        for name, observer in p.named_children()
        if name.startswith("observer_")
    }


def test_inputs_and_what_reaches_an_output_unchanged_are_ends():
    found = bits(ptq.Recipe(activations=FOUR, observer=MinMaxObserver))
    # x enters; relu_2 leaves through pooling and flatten, c at once. The sigmoid stays in float,
    # but what it gives is an activation.
    assert found == {"x": 8, "relu": 4, "relu_1": 4, "relu_2": 8, "sigmoid": 4, "c": 8}


def test_the_recipe_may_say_otherwise():
    recipe = ptq.Recipe(activations=FOUR, ends=FOUR, observer=MinMaxObserver)
    assert set(bits(recipe).values()) == {4}
    assert ptq.Recipe(activations=FOUR).ends == EIGHT
    with pytest.raises(TypeError, match="ends must be a QuantSpec"):
        ptq.Recipe(ends=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ends must have at most 8 bits"):
        ptq.Recipe(ends=QuantSpec(16))
