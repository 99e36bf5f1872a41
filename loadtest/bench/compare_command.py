"""`headrace bench compare`: the command, its table and its exit code.

Lives here: options in, a comparison out.  Never here: how runs are compared (`compare.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from topics.codec import encode_json

if TYPE_CHECKING:
    from loadtest.bench.compare import LoadComparison

__all__ = ["WORSE", "compare_files"]

WORSE = 4
"""The exit code of a comparison that proves a regression."""


def compare_files(
    a: Annotated[Path, typer.Argument(help="Runs before: what `headrace bench --json` wrote.")],
    b: Annotated[Path, typer.Argument(help="Runs after, of the same load.")],
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=10.0, help="Share by which a measure may be worse: 0.05 is 5 %.")
    ] = 0.05,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare load tests: rate, p50, p99 and processor time an answer, with intervals.

    A file may hold several runs, one a line: append them. From three on, runs are compared, else slices.
    Exit code 0: nothing is proven worse; 4: something is; 1: answers of B were lost or wrong.
    """
    from loadtest.bench.compare import compare_loads, read_runs  # noqa: PLC0415 - SciPy takes its time

    found = compare_loads(read_runs(a), read_runs(b), tolerance=tolerance)
    if json:
        told = {**found._asdict(), "differences": [one._asdict() for one in found.differences]}
        typer.echo(encode_json({**told, "worse": found.worse}).decode())
    else:
        _print_comparison(found, tolerance)
    if found.wrong:
        raise typer.Exit(1)
    if found.worse:
        raise typer.Exit(WORSE)


def _print_comparison(found: LoadComparison, tolerance: float) -> None:
    from loadtest.bench.compare import CONFIDENCE  # noqa: PLC0415

    console = Console(soft_wrap=True)
    table = Table(title=f"B against A, compared by {found.unit}")
    for column in ("measure", "A", "B", "B / A", f"{CONFIDENCE:.0%} interval, all together", ""):
        table.add_column(column, justify="left" if column in {"measure", ""} else "right")
    for one in found.differences:
        table.add_row(
            one.measure,
            f"{one.a:,.3f}",
            f"{one.b:,.3f}",
            f"{one.ratio:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            one.judged,
            style={"worse": "bold red", "better": "green"}.get(one.judged, ""),
        )
    console.print(table)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)
    if found.wrong:
        console.print(f"{found.wrong:,} events of B were lost or answered wrongly", style="bold red")
    text = f"B is worse by more than {tolerance:.0%}" if found.worse else "nothing is proven worse"
    console.print(text, style="bold red" if found.worse else "green")
