"""What encoding costs: error of the mean, bytes and time a parameter, for 8 to 24 value bits, plain and rotated.

    python benchmarks/encoding.py [--json FILE] [--quick]
    python benchmarks/encoding.py --page

The second writes the kept figures into docs/explanation/encoding.md.

32 clients send updates of 2^20 coordinates, Gaussian or heavy-tailed (Student's t with 3 degrees of freedom); the range
is the largest magnitude that any of them has, after the rotation where there is one, so that nothing is clipped. The
error is that of the decoded mean against the float64 mean, relative to the mean square of one client's coordinate; a
rotation in blocks of 4096 keeps errors as they are and makes the range smaller. The sum of words is a plain one: what
protects it adds no error. Time is processor time on one core, the least of several turns. Last, what one party spends
on the distributed mechanism: clip, dither and a share of noise, by default and compressed to 16 bits.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from measure import best_of, machine, pin_to_one_core
from rich.console import Console
from rich.table import Table

from protocols.primitives.ring import reduce_in_place
from secfl.encoding import Encoder, EncodingScheme, decode_mean
from secfl.encoding.transform import Transform
from secfl.privacy.mechanism import DistributedMechanism

CLIENTS = 32
BLOCK = 4096
VALUE_BITS = (8, 12, 16, 24)
KINDS = ("gaussian", "heavy-tailed")
SEED = b"a public seed"
GOALS = {"plain": 15.0, "rotated": 40.0}
ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "results" / "encoding.json"
PAGE = ROOT / "docs" / "explanation" / "encoding.md"


def updates(kind: str, clients: int, dimension: int) -> np.ndarray:
    """The same for every number of bits; a common part, as updates have."""
    choice = np.random.default_rng(20)
    draw = choice.standard_normal if kind == "gaussian" else lambda shape: choice.standard_t(3, shape)
    return np.asarray(draw((clients, dimension)) + draw(dimension), np.float32)


def scheme_for(value_range: float, bits: int) -> EncodingScheme:
    return EncodingScheme.choose(value_range, bits, maximum_contributors=CLIENTS, layout_digest=bytes(32))


def error_of_mean(vectors: np.ndarray, transform: Transform, value_range: float, bits: int) -> tuple[float, float]:
    """Relative mean squared error, and bytes a parameter."""
    scheme = scheme_for(value_range, bits)
    encoder = Encoder(scheme, os.urandom)
    total = np.zeros(transform.length, scheme.word_dtype)
    for vector in vectors:
        total += encoder.encode(transform.forward(vector, SEED))[0]
    reduce_in_place(total, scheme.modulus_bits)
    mean = transform.inverse(decode_mean(total, scheme, CLIENTS), SEED)
    exact = vectors.astype(np.float64).mean(axis=0)
    error = float(np.mean((mean - exact) ** 2) / np.mean(np.square(vectors, dtype=np.float64)))
    return error, scheme.modulus_bits / 8 * transform.length / transform.dimension


def nanoseconds(vector: np.ndarray, transform: Transform, value_range: float, bits: int, turns: int) -> float:
    """Encode and decode together, a parameter."""
    scheme = scheme_for(value_range, bits)
    encoder = Encoder(scheme, os.urandom)
    words = encoder.encode(transform.forward(vector, SEED))[0]
    out = np.empty(words.size)
    encoding, decoding = best_of(
        turns,
        lambda: encoder.encode(transform.forward(vector, SEED), out=words),
        lambda: transform.inverse(decode_mean(words, scheme, CLIENTS, out=out), SEED),
    )
    return (encoding + decoding) / transform.dimension * 1e9


def measure(dimension: int, turns: int) -> list[dict[str, Any]]:
    rows = []
    for kind in KINDS:
        vectors = updates(kind, CLIENTS, dimension)
        for name, block in (("plain", 0), ("rotated", BLOCK)):
            transform = Transform(dimension, block=block)
            value_range = max(float(np.abs(transform.forward(vector, SEED)).max()) for vector in vectors)
            for bits in VALUE_BITS:
                error, size = error_of_mean(vectors, transform, value_range, bits)
                spent = nanoseconds(vectors[0], transform, value_range, bits, turns)
                rows.append(
                    {
                        "updates": kind,
                        "encoding": name,
                        "value_bits": bits,
                        "range": value_range,
                        "relative_mse": error,
                        "bytes_per_parameter": size,
                        "ns_per_parameter": spent,
                        "goal_ns": GOALS[name],
                    }
                )
    return rows


def mechanisms(dimension: int, turns: int) -> list[dict[str, Any]]:
    """Nanoseconds a parameter of one party's encoding with noise."""
    vector = updates("gaussian", 1, dimension)[0]
    constants: dict[str, Any] = {
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "dimension": dimension,
        "minimum_contributors": 256,
        "maximum_contributors": 300,
        "layout_digest": bytes(32),
    }
    compressed = {"modulus_bits": 16, "rotation_block": BLOCK, "rounding": "conditional", "wrap_probability": 1e-6}
    rows = []
    for name, options in (("default", {}), ("16 bits, rotated", compressed)):
        it = DistributedMechanism.choose(**constants, **options)
        (spent,) = best_of(turns, lambda it=it: it.encode(vector, SEED, os.urandom))
        shown = it.describe()
        rows.append(
            {
                "mechanism": name,
                "modulus_bits": it.modulus_bits,
                "share_sigma": shown["share_sigma_in_steps"],
                "noise_inflation": shown["noise_inflation_by_rounding"],
                "wrap_probability": shown["wrap_probability"],
                "bytes_per_parameter": shown["bytes_per_parameter"],
                "ns_per_parameter": spent / dimension * 1e9,
            }
        )
    return rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=140).print(table)


def page_tables(document: Any) -> str:
    """The kept figures as they stand on the page."""
    found = {(row["updates"], row["encoding"], row["value_bits"]): row for row in document["rows"]}
    errors = [(updates, encoding) for updates in KINDS for encoding in GOALS]
    lines = [
        "| value bits | bytes a parameter | "
        + " | ".join(f"{updates}, {encoding}" for updates, encoding in errors)
        + " |",
        "|---" * (2 + len(errors)) + "|",
    ]
    for bits in VALUE_BITS:
        size = found["gaussian", "plain", bits]["bytes_per_parameter"]
        cells = [f"{found[updates, encoding, bits]['relative_mse']:.1e}" for updates, encoding in errors]
        lines.append(f"| {bits} | {size:.2f} | " + " | ".join(cells) + " |")
    lines.append("")
    for encoding, goal in GOALS.items():
        spent = max(row["ns_per_parameter"] for row in document["rows"] if row["encoding"] == encoding)
        lines.append(f"Encode and decode, {encoding}: {spent:.0f} ns a parameter at most (goal: under {goal:.0f}).")
    lines += [
        "",
        "| mechanism | modulus bits | noise inflation | bytes a parameter | ns a parameter |",
        "|---" * 5 + "|",
    ]
    for row in document["mechanism"]:
        inflation = f"{row['noise_inflation']:.3f}"
        size, spent = f"{row['bytes_per_parameter']:.2f}", f"{row['ns_per_parameter']:.0f}"
        lines.append(f"| {row['mechanism']} | {row['modulus_bits']} | {inflation} | {size} | {spent} |")
    return "\n".join(lines)


def rewritten(page: str) -> str:
    """The page with the kept figures in their place."""
    begin, end = "<!-- table: encoding -->\n\n", "\n\n<!-- end -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return before + begin + page_tables(json.loads(KEPT.read_text(encoding="utf-8"))) + end + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="2^16 coordinates, two turns")
    parser.add_argument("--page", action="store_true", help="write the kept figures into the page, measure nothing")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    pin_to_one_core()
    dimension, turns = (1 << 16, 2) if options.quick else (1 << 20, 7)
    rows, noised = measure(dimension, turns), mechanisms(dimension, turns)
    show(f"Mean of {CLIENTS} updates", rows)
    show("A party's share, noise included", noised)
    if options.json:
        document = {"measured": machine(), "clients": CLIENTS, "block": BLOCK, "rows": rows, "mechanism": noised}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
