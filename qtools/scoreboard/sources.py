"""Where the rows come from: for each record in results/ a function that reads its rows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qtools.results import results_dir
from qtools.scoreboard.row import Row

Record = Mapping[str, Any]

#: The record of `python -m benchmarks.scoreboard`: bytes and times of the networks by name.
MEASURED = "scoreboard"


class Context(NamedTuple):
    """What a row needs beside its own record.

    ``networks`` has bytes and milliseconds by the network's name; ``train`` the number of training
    images, ``characters`` that of training characters and ``window`` those of a window, if known.
    """

    networks: Mapping[str, Record]
    train: int | None
    characters: int | None
    window: int | None

    def size(self, name: str) -> float | None:
        """Bytes of a network's file."""
        return self.networks[name]["bytes"] if name in self.networks else None

    def times(self, name: str) -> dict[str, float | None]:
        """Milliseconds of one image or character, and of 64 images, as far as measured."""
        found = self.networks.get(name, {})
        return {key: found.get(key) for key in ("ms", "batch_ms", "ort_ms", "ort_batch_ms")}


class Source(NamedTuple):
    """A record, and how its rows are read from it."""

    record: str
    model: str
    family: str
    chapter: int
    read: Callable[[Record, Context], Iterable[dict[str, Any]]]

    def rows(self, record: Record, context: Context) -> Iterator[Row]:
        """Yield the rows; one whose bytes nobody measured is not there."""
        for found in self.read(record, context):
            network = found.pop("network")
            found.setdefault("bytes", context.size(network))
            if found["bytes"] is None:
                continue
            base = {"family": self.family, "activations": 32, "deviation": 0.0, "seeds": 1,
                    "real": not record.get("simulated", False), "epochs": 0.0,
                    "seconds": None}  # fmt: skip
            own = {"model": self.model, "record": self.record, "chapter": self.chapter}
            yield Row(**{**base, **own, **context.times(network), **found})


def board(folder: Path | None = None) -> list[Row]:
    """Return all rows that the records give.

    Parameters
    ----------
    folder : Path, optional
        With the records, by default results/. A record that is not there has no rows.
    """
    folder = results_dir() if folder is None else folder
    records = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name in (*(s.record for s in SOURCES), MEASURED)
        if (path := folder / f"{name}.json").exists()
    }
    images = records.get("smallcnn", {}).get("images", {})
    text = records.get("chargpt", {})
    context = Context(
        records.get(MEASURED, {}).get("networks", {}),
        images.get("train"),
        text.get("characters", {}).get("train"),
        text.get("settings", {}).get("context"),
    )
    return [
        row
        for source in SOURCES
        if source.record in records
        for row in source.rows(records[source.record], context)
    ]


def absent(rows: Iterable[Row]) -> list[str]:
    """Return the records that the scoreboard demands and that gave no row."""
    there = {row.record for row in rows}
    return [source.record for source in SOURCES if source.record not in there]


def _mean_seconds(record: Record, line: Record, names: Iterable[str]) -> float | None:
    """Mean of the seconds of the runs that a line of a summary is the mean of."""
    of = [r["seconds"] for r in record["runs"] if all(r[n] == line[n] for n in names)]
    return round(statistics.mean(of), 1) if of else None


def _over_seeds(line: Record, quality: str) -> dict[str, Any]:
    return {"quality": line[quality], "deviation": line["deviation"], "seeds": line["seeds"]}


def _whole_cnn(record: Record, context: Context) -> Iterator[dict[str, Any]]:
    yield {"network": "float", "method": "trained", "bits": 32,
           "quality": round(100 * record["accuracy"]["value"], 4),
           "bytes": record["storage"]["file_bytes"]}  # fmt: skip


def _post_training(record: Record, context: Context) -> Iterator[dict[str, Any]]:
    for line in record["summary"]:
        bits, method = line["weights"], line["method"]
        of = "tensor" if method.startswith("one scale") else "channel"
        network = "dynamic" if method == "dynamic" else f"W{bits} {of}"
        yield {"network": network, "method": method, "bits": bits,
               "activations": line["activations"], **_over_seeds(line, "accuracy")}  # fmt: skip


_TRAINED_ROUNDED = {"LearnedStep": "learned step", "FakeQuantize": "moving average"}


def _aware(record: Record, context: Context) -> Iterator[dict[str, Any]]:
    names = ("weights", "activations", "method")
    for line in record["summary"]:
        bits, method = line["weights"], line["method"]
        cost = {"epochs": record["epochs"], "seconds": _mean_seconds(record, line, names)}
        if method == "float":
            yield {"network": "float", "method": "trained on", "bits": bits, "family": "float",
                   **cost, **_over_seeds(line, "accuracy")}  # fmt: skip
            continue
        yield {"network": f"W{bits} channel", "method": _TRAINED_ROUNDED[method], "bits": bits,
               "activations": line["activations"], **cost,
               **_over_seeds(line, "accuracy")}  # fmt: skip


def _pruned(record: Record, context: Context) -> Iterator[dict[str, Any]]:
    for line in record["summary"]:
        channels, share = line["method"] == "channels", line["sparsity"]
        what = f"{line['method']}, {share:.0%} of the " + ("products" if channels else "weights")
        yield {"network": "channels" if channels else f"zeros {share}", "method": what, "bits": 32,
               "real": channels, "epochs": record["epochs"] if line["trained"] else 0.0,
               "seconds": _mean_seconds(record, line, ("method", "sparsity", "trained")),
               **_over_seeds(line, "accuracy")}  # fmt: skip


def _students(record: Record, context: Context) -> Iterator[dict[str, Any]]:
    for line in record["summary"]:
        if line["images"] != "all":
            continue  # they learned from other images: not the same race
        names = ("images", "epochs", "teacher", "temperature", "alpha")
        of = [r["accuracy"] for r in record["runs"] if all(r[n] == line[n] for n in names)]
        who = "alone" if line["teacher"] == "none" else "taught"
        yield {"network": "student", "method": f"student of a quarter of the width, {who}",
               "bits": 32, "quality": line["mean"], "deviation": round(statistics.stdev(of), 3),
               "seeds": len(of), "epochs": line["epochs"],
               "seconds": _mean_seconds(record, line, names)}  # fmt: skip


def _low_rank(record: Record, context: Context) -> Iterator[dict[str, Any]]:
    passes = context.train and record["epochs"] * record["train_images"] / context.train
    for line in record["summary"]:
        if line["layers"] == "none":
            continue
        size = f"rank {line['size']}" if line["layers"] == "fc1" else f"a {line['size']}"
        method = f"{line['layers']} by {line['method']}, {size}"
        network = f"{line['layers']} {line['method']} {line['size']}"
        base = {"network": network, "method": method, "bits": 32}
        yield {**base, "quality": line["before"], "deviation": line["before_deviation"],
               "seeds": line["seeds"]}  # fmt: skip
        yield {**base, "method": method + ", trained on", "epochs": passes,
               "seconds": _mean_seconds(record, line, ("layers", "method", "size")),
               **_over_seeds(line, "accuracy")}  # fmt: skip


def _combined(record: Record, context: Context) -> Iterator[dict[str, Any]]:
    families = {"quantized": "quantization-aware", "pruned": "pruning",
                "distilled": "distillation"}  # fmt: skip
    for line in record["summary"]:
        family = families.get(line["name"], "combined")
        method = f"{line['name']} alone" if family != "combined" else line["name"]
        activations = 32 if line["weights"] == 16 else 8
        yield {"network": line["name"], "method": method,
               "family": family, "bits": line["weights"], "activations": activations,
               "bytes": line["bytes"], "epochs": line["epochs"], "seconds": line["train_seconds"],
               **_over_seeds(line, "accuracy")}  # fmt: skip


def _whole_gpt(record: Record, context: Context) -> Iterator[dict[str, Any]]:
    yield {"network": "CharGPT", "method": "trained", "bits": 16, "quality": record["value"],
           "bytes": record["file_bytes"]}  # fmt: skip


_WEIGHTS_ONLY = {"rtn": "round to nearest", "gptq": "GPTQ", "awq": "AWQ"}


def _weights_only(record: Record, context: Context) -> Iterator[dict[str, Any]]:
    names = ("method", "bits", "group_size")
    for line in record["summary"]:
        method, bits, group = (line[n] for n in names)
        name, _, rest = method.partition(",")
        what = _WEIGHTS_ONLY[name] + ("," + rest if rest else "")
        scale = "a scale a row" if group is None else f"a scale for {group}"
        # AWQ multiplies the input by a vector: another network, whose time was not measured.
        network = "" if name == "awq" else f"CharGPT W{bits} {group or 'row'}"
        yield {"network": network, "method": f"{what}, {scale}", "bits": bits,
               "bytes": line["bytes"], **_over_seeds(line, "nats"),
               "seconds": _mean_seconds(record, line, names)}  # fmt: skip


_ONE_BIT = ("layer", "start", "layer_norm", "alpha", "latent", "gradient", "data", "steps", "rate")
_LAYERS = {"onebit": "OneBit", "two bits": "two bits, trained", "ternary": "ternary, trained",
           "bitnet": "BitNet's layer"}  # fmt: skip


def _ablations(record: Record, context: Context) -> Iterator[dict[str, Any]]:
    for line in record["summary"]:
        passes = None
        if context.characters and context.window:
            passes = line["steps"] * record["batch"] * context.window / context.characters
        told = [f"start {line['start']}"] * (line["layer"] == "onebit")
        told += ["LayerNorm"] * line["layer_norm"] + [f"α {line['alpha']:g}"] * (line["alpha"] != 1)
        told += [f"latent {line['latent']}"] * (line["latent"] != "weights")
        told += [f"gradient {line['gradient']}"] * (line["gradient"] != "tanh")
        told += [f"on {line['data']}"] * (line["data"] != "text") + [f"{line['steps']} steps"]
        packed = line["layer"] == "onebit" and not line["layer_norm"]
        yield {"network": "CharGPT onebit" if packed else "",
               "method": ", ".join([_LAYERS[line["layer"]], *told]),
               "bits": 2 if line["layer"] in ("two bits", "ternary") else 1,
               "bytes": line["bytes"], "epochs": passes, **_over_seeds(line, "nats"),
               "seconds": _mean_seconds(record, line, _ONE_BIT)}  # fmt: skip


def _long(record: Record, context: Context) -> Iterator[dict[str, Any]]:
    yield {"network": "CharGPT onebit", "method": "OneBit, trained long", "bits": 1,
           "quality": record["value"], "bytes": record["found"]["bytes"],
           "epochs": record["recipe"]["distill"]["epochs"],
           "seconds": record["seconds"]}  # fmt: skip


SOURCES = (
    Source("smallcnn", "SmallCNN", "float", 1, _whole_cnn),
    Source("ptq_smallcnn", "SmallCNN", "post-training", 6, _post_training),
    Source("qat_smallcnn", "SmallCNN", "quantization-aware", 7, _aware),
    Source("pruning_smallcnn", "SmallCNN", "pruning", 8, _pruned),
    Source("student_smallcnn", "SmallCNN", "distillation", 9, _students),
    Source("low_rank_smallcnn", "SmallCNN", "low rank", 10, _low_rank),
    Source("pipeline_smallcnn", "SmallCNN", "combined", 16, _combined),
    Source("chargpt", "CharGPT", "float", 11, _whole_gpt),
    Source("weight_only", "CharGPT", "weights only", 11, _weights_only),
    Source("onebit_chargpt", "CharGPT", "one bit", 14, _ablations),
    Source("chargpt_onebit", "CharGPT", "one bit", 14, _long),
)
