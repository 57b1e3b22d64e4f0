"""CharGPT with weights of a few bits: round to nearest, GPTQ and AWQ on the held-out text.

    python -m benchmarks.weight_only [--write]

4, 3, 2 and 1 bits, with a scale for each row and for each 64 columns of it. What calibrates sees
64 windows of the training text, which the seed draws; round to nearest sees none. "GPTQ, in order"
takes the columns from left to right, as in the paper, instead of those with large inputs first.

Without ``--write`` one seed. With it three at 2 bits, where they could matter most; finished runs
are kept beside the record (``*.checkpoint``) until it is complete, and an interrupted command goes
on from there.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks._language import measured, summary
from benchmarks._runs import Row, collected, resumable, wants_to_write
from qtools import evaluation
from qtools.models import CharGPT
from qtools.results import code_state, write_record
from qtools.weight_only import quantize_weights

RESULT = Path(__file__).parent.parent / "results" / "weight_only.json"
SEEDS = 3
IN_ORDER = "gptq, in order"


class Setting(NamedTuple):
    """A row: how the weights are quantized."""

    method: str
    bits: int
    group_size: int | None


SETTINGS = (
    *(
        Setting(method, bits, group_size)
        for bits in (2, 3, 4, 1)
        for group_size in (None, 64)
        for method in ("rtn", "gptq", "awq")
    ),
    Setting(IN_ORDER, 2, None),
)


def run(setting: Setting, seed: int) -> Row:
    """Quantize once and foretell the held-out text."""
    start, model = time.perf_counter(), CharGPT.pretrained()
    method, bits, group_size = setting
    options: dict[str, Any] = {"act_order": False} if method == IN_ORDER else {}
    report = quantize_weights(
        model,
        method.partition(",")[0],
        bits,
        group_size,
        calibration=None if method == "rtn" else evaluation.calibration(model, seed),
        **options,
    )
    quantized, found = time.perf_counter(), evaluation.evaluate(model)
    errors = [layer.output_error for layer in report.layers if layer.output_error is not None]
    return {
        **setting._asdict(),
        "seed": seed,
        **measured(found),
        "weight_bytes": report.bytes,
        "output_error": round(statistics.mean(errors), 6) if errors else None,
        "quantize_seconds": round(quantized - start, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    torch.set_num_threads(1)
    code, kept = code_state(), RESULT.with_suffix(".checkpoint")
    teacher = evaluation.evaluate(CharGPT.pretrained())
    print(teacher, flush=True)
    order = (
        (setting, seed)
        for seed in range(SEEDS if write else 1)
        for setting in SETTINGS
        if seed == 0 or (setting.bits == 2 and setting.method != "rtn")
    )
    rows = collected(resumable(order, kept, run))
    table = summary(rows, SETTINGS, ("weight_bytes",))
    for line in table:
        print(line)
    if write:
        details: dict[str, Any] = {"teacher": teacher._asdict(), "summary": table, "runs": rows}
        write_record(
            RESULT,
            value=next(r["nats"] for r in table if r["method"] == "gptq" and r["bits"] == 2),
            unit="nats a character, held-out text, GPTQ at 2 bits, a scale a row, mean",
            command="python -m benchmarks.weight_only --write",
            seconds=round(sum(r["seconds"] for r in rows), 1),
            code=code,
            model="CharGPT",
            simulated=False,
            calibration_windows=evaluation.CALIBRATION,
            **details,
        )
        kept.unlink()


if __name__ == "__main__":
    main()
