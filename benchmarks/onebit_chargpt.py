"""CharGPT to one bit with each ingredient switched on and off, and its rivals in the same loop.

    python -m benchmarks.onebit_chargpt [--write]

All runs have the same number of steps (but for those that vary it) and see windows of the training
text in an order that the seed draws. OneBit's three ingredients, where the layers start, the
LayerNorm and the loss on hidden states, are combined in all ways; everything else changes one thing
at a time. The rivals, BitNet's layer, its ternary one and 2 bits with learned steps, have the loss
on hidden states too. All have tried another learning rate of the latent weights, see `TRIED`.

Each student is packed before it foretells the held-out text. Without ``--write`` one seed. With it
three for the rows that the book compares, two runs at a time, one thread each; finished runs are
kept beside the record (``*.checkpoint``) until it is complete, and an interrupted command goes on
from there.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks._language import measured, summary
from benchmarks._runs import Row, collected, is_of, resumable, wants_to_write
from qtools import evaluation, text
from qtools.distillation import DistillConfig, Distiller, OneBit
from qtools.distillation.language import onebit_student, two_rates
from qtools.distillation.rivals import bitnet_student, pack_, qat_student
from qtools.distillation.written import Sequences, written
from qtools.models import CharGPT
from qtools.results import code_state, write_record

RESULT = Path(__file__).parent.parent / "results" / "onebit_chargpt.json"
STEPS, BATCH, SEEDS, WORKERS = 100, 8, 3, 2
#: Learning rate of all that is no latent weight.
VECTORS = 0.002
PROMPT, LENGTH, TEMPERATURE = "Call me Ishmael. ", 240, 0.7


class Setting(NamedTuple):
    """A row: the layer and how it is taught."""

    layer: str = "onebit"
    start: str = "svid"
    layer_norm: bool = False
    alpha: float = 1.0
    latent: str = "weights"
    gradient: str = "tanh"
    data: str = "text"
    steps: int = STEPS
    rate: float = 0.006  # of the latent weights


BASE = Setting()
RIVALS = (
    Setting("two bits", start="copied", rate=0.002),
    Setting("ternary", start="copied", rate=0.002),
    Setting("bitnet", start="copied", rate=0.002),
)
#: The same at another rate: worse for the rivals, better for OneBit, whose rows all have 0.006. Its
#: long run (recipes/chargpt_onebit.toml), which came after, has the better one.
TRIED = tuple(setting._replace(rate=0.008 - setting.rate) for setting in (BASE, *RIVALS))
FACTORIAL = tuple(
    Setting(start=start, layer_norm=norm, alpha=alpha)
    for norm, alpha, start in itertools.product(
        (False, True), (1.0, 0.0), ("svid", "copied", "random")
    )
)
SINGLE = (
    *(BASE._replace(steps=steps) for steps in (STEPS // 2, 2 * STEPS)),
    *(BASE._replace(alpha=alpha) for alpha in (0.1, 10.0)),
    BASE._replace(latent="sign"),
    *(BASE._replace(data=data) for data in ("written", "both")),
    *(BASE._replace(gradient=name) for name in ("identity", "clipped", "released")),
)
#: Those with three seeds: OneBit, the paper's layer, its comparisons, the nearest rival.
MAIN = (
    BASE,
    BASE._replace(layer_norm=True),
    BASE._replace(start="copied"),
    BASE._replace(start="random"),
    BASE._replace(alpha=0.0),
    RIVALS[0],
)
SETTINGS = (*FACTORIAL, *RIVALS, *SINGLE)


def student(setting: Setting) -> nn.Module:
    """Make what is taught."""
    if setting.layer == "two bits":
        return qat_student()
    if setting.layer in ("bitnet", "ternary"):
        return bitnet_student(ternary=setting.layer == "ternary")
    return onebit_student(
        start=setting.latent,
        gradient=setting.gradient,
        layer_norm=setting.layer_norm,
        init=setting.start,
    )


def examples(setting: Setting, seed: int, teacher: CharGPT) -> Sequences:
    """As many windows as the steps take, each seen once: of the text, the teacher's, or half each.

    The seed draws those of the text; what the teacher wrote is the same for all.
    """
    n = setting.steps * BATCH
    own = {"text": 0, "written": n, "both": n // 2}[setting.data]
    pieces = text.Windows(teacher.encode(text.split()[0]), teacher.context)
    passes = -(-n // len(pieces))
    index = torch.cat([torch.randperm(len(pieces)) for _ in range(passes)])
    tokens: list[Tensor] = [pieces[index[: n - own]]["input_ids"]]
    if own:
        file = RESULT.with_suffix(".written.checkpoint")
        tokens.append(written(str(file), teacher, STEPS * BATCH, teacher.context).tokens[:own])
    return Sequences(torch.cat(tokens))


def run(setting: Setting, seed: int) -> Row:
    """Distil, pack, foretell the held-out text, and let the first seed's student write."""
    torch.set_num_threads(1)
    start, teacher = time.perf_counter(), CharGPT.pretrained()
    torch.manual_seed(seed)
    model, data = student(setting), examples(setting, seed, teacher)
    config = DistillConfig(
        epochs=1, batch_size=BATCH, lr=setting.rate, betas=(0.9, 0.98), warmup=0.05,
        device="cpu", seed=seed, log_every=5,
    )  # fmt: skip
    optimizer = two_rates(model, config, VECTORS)
    loss = OneBit(setting.alpha)
    distiller = Distiller(model, teacher, data, config, loss, optimizer=optimizer, progress=False)
    history = distiller.run()
    trained = time.perf_counter()
    pack_(model)
    assert isinstance(model, CharGPT)
    found = evaluation.evaluate(model)
    return {
        **setting._asdict(),
        "seed": seed,
        **measured(found),
        "train_seconds": round(trained - start, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "curve": [[row["step"], round(row["logits"], 3)] for row in history.steps],
        "sample": sample(model) if seed == 0 else None,
    }


def sample(model: CharGPT) -> str:
    """Return what a model writes after `PROMPT`, the prompt included."""
    chance = torch.Generator().manual_seed(0)
    tokens = model.encode(PROMPT)[None]
    return model.decode(model.generate(tokens, LENGTH, TEMPERATURE, chance)[0])


def order(seeds: int) -> list[tuple[Setting, int]]:
    """All runs: each setting once, then the further seeds of the main ones."""
    once = [(setting, 0) for setting in (*MAIN, *SETTINGS, *TRIED)]
    further = [(setting, seed) for seed in range(1, seeds) for setting in MAIN]
    return list(dict.fromkeys(once + further))


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    code, kept = code_state(), RESULT.with_suffix(".checkpoint")
    teacher = CharGPT.pretrained()
    own: dict[str, Any] = {**evaluation.evaluate(teacher)._asdict(), "sample": sample(teacher)}
    rows = collected(
        resumable(order(SEEDS if write else 1), kept, run, WORKERS),
        lambda row: {k: v for k, v in row.items() if k not in ("curve", "sample")},
    )
    table, tried = summary(rows, SETTINGS), summary(rows, TRIED)
    for line in (*table, *tried):
        print(line)
    if write:
        runs = [r for r in rows if any(is_of(r, setting) for setting in SETTINGS)]
        details: dict[str, Any] = {"teacher": own, "summary": table, "tried": tried, "runs": runs}
        write_record(
            RESULT,
            value=table[0]["nats"],
            unit="nats a character, held-out text, OneBit by SVID without LayerNorm, mean",
            command="python -m benchmarks.onebit_chargpt --write",
            seconds=round(sum(r["seconds"] for r in rows), 1),
            code=code,
            model="CharGPT",
            simulated=False,
            batch=BATCH,
            prompt=PROMPT,
            temperature=TEMPERATURE,
            **details,
        )
        kept.unlink()


if __name__ == "__main__":
    main()
