"""Which layers read the same input, in the order in which a model runs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from qtools.modes import evaluating
from qtools.pruning import Gram, gram_matrices

#: What a model takes: a tensor, or its arguments by name as a tokenizer gives them.
Batch = Tensor | Mapping[str, Any]


class Stage:
    """Layers that take one input (queries, keys and values), or a layer that runs several times.

    Attributes
    ----------
    names : list of str
    calls : int
        How often each runs in one pass.
    """

    def __init__(self, name: str) -> None:
        self.names, self.calls = [name], 1


def stages(model: nn.Module, names: Sequence[str], batches: Sequence[Batch]) -> list[Stage]:
    """Group layers by their input, in the order of their first run.

    Raises
    ------
    ValueError
        If a layer is not run by any of the batches, with its name.
    """
    found: dict[str, Stage] = {}
    order: list[str] = []
    last: tuple[str, Any] = "", None  # the input is held: no other can take its place in memory

    def note(name: str, inputs: tuple[Any, ...]) -> None:
        nonlocal last
        if name in found:
            if len(found[name].names) > 1:  # it was taken for one that runs once
                found[name].names.remove(name)
                found[name] = Stage(name)
            found[name].calls += 1
        else:
            order.append(name)
            if inputs[0] is last[1] and found[last[0]].calls == 1:
                found[name] = found[last[0]]
                found[name].names.append(name)
            else:
                found[name] = Stage(name)
        last = name, inputs[0]

    modules = dict(model.named_modules(remove_duplicate=False))
    hooks = [
        modules[name].register_forward_pre_hook(lambda _, x, n=name: note(n, x)) for name in names
    ]
    try:
        with evaluating(model):
            for batch in batches:
                if len(order) == len(names):
                    break
                run(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if missing := [name for name in names if name not in found]:
        raise ValueError(
            f"calibration must run every layer, {missing[0]} never ran; "
            f"name it in skip to keep it: skip=({missing[0]!r},)"
        )
    return list(dict.fromkeys(found[name] for name in order))


def grams(model: nn.Module, stage: Stage, batches: Iterable[Batch]) -> dict[str, Gram]:
    """``XᵀX / n`` of the input of each layer of a stage, with the model as it is now.

    The model runs only as far as the stage, where it can be told; layers with one input share the
    matrix.
    """
    view = _UpTo(model, stage)
    with view.stopping():
        first = f"model.{stage.names[0]}"
        gram = gram_matrices(view, batches, [first])[first]  # type: ignore[arg-type]
    return dict.fromkeys(stage.names, gram)


class _Enough(Exception):
    """All that was wanted has run."""


class _UpTo(nn.Module):
    """The model until a stage has its input."""

    def __init__(self, model: nn.Module, stage: Stage) -> None:
        super().__init__()
        self.model, self.stage = model, stage

    def forward(self, batch: Batch) -> None:
        with suppress(_Enough):
            run(self.model, batch)

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Stop at the first layer of the stage, unless it runs more than once."""

        def stop(*_: Any) -> None:
            raise _Enough

        if self.stage.calls > 1:
            yield
            return
        # Behind the layer: what is called before it has seen its input by then.
        hook = self.model.get_submodule(self.stage.names[0]).register_forward_hook(stop)
        try:
            yield
        finally:
            hook.remove()


def run(model: nn.Module, batch: Batch) -> Any:
    """Call a model with a batch."""
    return model(**batch) if isinstance(batch, Mapping) else model(batch)
