"""`headrace evaluate --off-policy`: what another serving policy would have given.

Lives here: the arguments and the table.  Never here: the estimates (`engine/offline/off_policy.py`).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from engine.cli.options import Json, LogOptions, PipelineFile, grouped, print_json
from engine.definition.file import load_pipeline

__all__ = ["evaluate"]


@grouped
def evaluate(
    file: PipelineFile,
    off_policy: Annotated[
        list[str],
        typer.Option(
            "--off-policy",
            metavar="POLICY",
            help="tree=0.3,linear=0.7, or Split({...}), Bandit(...), FILE.py:NAME; repeatable.",
        ),
    ],
    source: LogOptions,
    json: Json = False,
) -> None:
    """Estimate the reward of other serving policies from what was logged under the one that ran."""
    from engine.offline.off_policy import evaluation_report  # noqa: PLC0415
    from engine.offline.rerun import logged_records  # noqa: PLC0415

    pipeline = load_pipeline(file)
    kafka = None if source.recording is not None else source.settings().kafka
    records = asyncio.run(logged_records(pipeline, source.recording, kafka))
    report = evaluation_report(pipeline, records, off_policy)
    if json:
        print_json(report)
    else:
        _print(report)


def _print(report: dict[str, Any]) -> None:
    from engine.cli.report import out, print_table, table_of  # noqa: PLC0415

    out.print(
        f"{report['rows']:,} of {report['examples']:,} examples say how likely their answer was, "
        f"of {report['keys']:,} keys; their mean reward is {report['logged']:.4f}\n",
        markup=False,
    )
    table = table_of("policy", "estimate", numbers=["reward", "low", "high", "effective"])
    for text, told in report["policies"].items():
        for method, one in told["estimates"].items():
            ends = (f"{one[end]:.4f}" for end in ("value", "low", "high"))
            table.add_row(text, method, *ends, f"{one['effective']:,.0f}")
    print_table(table)
    for text, told in report["policies"].items():
        if "learned" not in told:
            continue
        shares = ", ".join(f"{name} {share:.3f}" for name, share in told["at_the_end"].items())
        out.print(
            f"\n{text} has learned from {told['learned']:,} examples; its shares at the end: {shares}",
            markup=False,
        )
        for decision in told["decisions"]:
            out.print(f"  {decision}", markup=False)
