"""The files of a new project: the pipeline, its test, a compose file, a page to read, the sample as messages.

Lives here: the lines that stand in the templates.  Never here: what is in the pipeline (`plan.py`).

Nothing is ever overwritten: the folder is made under another name beside it, and takes its own when all
files are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

from engine.new_folder import write_new_folder
from engine.project.plan import ProjectPlan
from topics.codec import encode_json

__all__ = ["project_files", "write_project"]

TEMPLATES = Path(__file__).parent / "templates"
WIDTH = 100
_QUESTIONS = {
    "binary": "Will `{0}` be true?",
    "multiclass": "Which `{0}` will it be?",
    "regression": "How large will `{0}` be?",
}


def write_project(folder: Path, plan: ProjectPlan, sample: Path) -> tuple[str, ...]:
    """Write the files of a project and return their names.

    Raises SettingsError where the folder is there and not empty, or cannot be written.
    """
    files = project_files(plan, sample)
    write_new_folder(folder, files)
    return tuple(files)


def project_files(plan: ProjectPlan, sample: Path) -> dict[str, bytes]:
    """Return the bytes of each file of a project by name; `sample` is told as where it comes from."""
    labels = ', "--labels", HERE / "labels.jsonl"' if plan.labels else ""
    files = "--events events.jsonl" + (" --labels labels.jsonl" if plan.labels else "")
    texts = {
        "pipeline.py": _filled("pipeline", _pipeline_parts(plan)),
        "test_pipeline.py": _filled(
            "test",
            {
                "task": plan.task,
                "labels": labels,
                "dead_letters": '0, report["dead_letters_by_stage"]'
                if not plan.labels
                else 'report["labels"]["dead_letters"]',
                "checks": "\n".join(_checks(plan)),
            },
        ),
        "compose.yaml": _filled("compose", {"version": version("headrace")}),
        "README.md": _filled(
            "readme",
            {
                "name": plan.name,
                "question": _question(plan),
                "sample": sample.name,
                "files": files,
                "dev": " --labels labels.jsonl" if plan.labels else "",
            },
        ),
    }
    data = {name: text.encode() for name, text in texts.items()}
    data["events.jsonl"] = _lines(plan.events)
    if plan.labels:
        data["labels.jsonl"] = _lines(plan.labels)
    return data


def _checks(plan: ProjectPlan) -> Iterator[str]:
    """Yield what the test of a project demands of its backtest."""
    if plan.labels:  # of the events beyond the first some labels have no event
        yield '    assert 0 < report["examples"] <= report["events"]'
        return
    yield '    assert report["dead_letters"] == 0, report["dead_letters_by_stage"]'
    yield '    assert report["examples"] == report["events"] > 0'


def _filled(template: str, parts: Mapping[str, str]) -> str:
    return Template((TEMPLATES / f"{template}.txt").read_text()).substitute(parts)


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(encode_json(row) + b"\n" for row in rows)


def _question(plan: ProjectPlan) -> str:
    return _QUESTIONS[plan.task].format(plan.roles.label.column)


def _pipeline_parts(plan: ProjectPlan) -> dict[str, str]:
    """Return what stands in the template of a pipeline."""
    types = {field.type for field in plan.fields}
    has_label_windows = plan.task != "multiclass"
    names = ["Labels", "Pipeline", "Promotion", "Topic", "by", "field"]
    names += ["label"] if has_label_windows else []
    modules = {"binary": "linear_model, optim", "regression": "linear_model"}.get(
        plan.task, "linear_model, multiclass"
    )
    modules = ("compose, " if plan.words else "") + modules + ", preprocessing, tree"
    imports = [
        *(["from datetime import datetime", ""] if "datetime" in types else []),
        "from msgspec import Struct",
        f"from river import {modules}",
        "",
        f"from headrace import {', '.join(names)}",
    ]
    renamed = {field.name: field.wire for field in plan.fields if field.name != field.wire}
    return {
        "question": _question(plan),
        "notes": "\n".join(_noted(plan)),
        "imports": "\n".join(imports),
        "rename": f", rename={_quoted(renamed)}" if renamed else "",
        "fields": "\n".join(_fields(plan)),
        "encode": _encode(plan),
        "features": "\n".join(_features(plan)),
        "windows": "\n".join(_windows(plan, has_label_windows)),
        "name": plan.name,
        "key": plan.key,
        "id": plan.id,
        "time": plan.time,
        "labels": _labels(plan),
        "models": "\n".join(f'        "{name}": {model},' for name, model in _models(plan)),
        "task": '\n    task="multiclass",' if plan.task == "multiclass" else "",
    }


def _noted(plan: ProjectPlan) -> Iterator[str]:
    roles = plan.roles
    for what, choice in (
        ("label", roles.label), ("time", roles.time), ("id", roles.id), ("key", roles.key)
    ):  # fmt: skip
        yield f"{what}: {choice.column or 'none'} ({choice.reason})".replace("\\", "/").replace('"', "'")
    for note in plan.notes:
        yield f"- {note}".replace("\\", "/").replace('"', "'")


def _fields(plan: ProjectPlan) -> Iterator[str]:
    said = {plan.key: "the record's key", plan.id: "another one for each event"}
    if plan.key == plan.id:
        said[plan.id] += ", and the record's key"
    for field in plan.fields:
        type_ = f"{field.type} | None = None" if field.optional else field.type
        comment = said.get(field.name, "")
        if field.name == plan.time:
            comment = "ms since 1970, UTC" if field.type == "int" else "RFC 3339, with an offset from UTC"
        yield f"    {field.name}: {type_}" + (f"  # {comment}" if comment else "")


def _encode(plan: ProjectPlan) -> str:
    if not plan.words:
        return "encode = preprocessing.StandardScaler()\n"
    return (
        "words, numbers = compose.SelectType(str), compose.SelectType(int, float)\n"
        "encode = (words | preprocessing.OneHotEncoder()) + (numbers | preprocessing.StandardScaler())\n"
    )


def _features(plan: ProjectPlan) -> Iterator[str]:
    for part in plan.time_parts:
        yield f'    "{_free(part, plan)}": field("{plan.time}").{part}(),'
    for name in (*plan.numbers, *plan.words):
        yield f'    "{name}": field("{name}"),'


def _free(name: str, plan: ProjectPlan) -> str:
    """Return a name for a feature that no field has taken."""
    while name in (*plan.numbers, *plan.words):
        name = f"event_{name}"
    return name


def _windows(plan: ProjectPlan, of_labels: bool) -> Iterator[str]:
    """Yield the lines that add windows: over all events, and over those of one key where there is one."""
    keys = {"all": "by()"}
    if plan.roles.key.column is not None:
        keys[plan.key] = f'by("{plan.key}")'
    shown = ", ".join(f'"{name}": {key}' for name, key in keys.items())
    yield f"for name, key in {{{shown}}}.items():"
    spans = ", ".join(f'"{span}"' for span in plan.spans)
    yield f"    for span in ({spans}{',' if len(plan.spans) == 1 else ''}):"
    yield '        features[f"{name}_count_{span}"] = key.count(span)'
    if of_labels:
        yield '        features[f"{name}_label_{span}"] = key.mean(label, span).default(0.0)'
    yield ""


def _labels(plan: ProjectPlan) -> str:
    if plan.wait is None:
        return f'Labels(field="{plan.label}")'
    of_type = ", type=int" if plan.task == "multiclass" and plan.label_kind == "int" else ""
    return f'Labels("{plan.name}.labels", id="{plan.label_id}", wait="{plan.wait}"{of_type})'


def _models(plan: ProjectPlan) -> Iterator[tuple[str, str]]:
    match plan.task:
        case "binary":
            yield "linear", "encode | linear_model.LogisticRegression(optimizer=optim.SGD(0.01))"
            yield "tree", "tree.HoeffdingTreeClassifier()"
            yield "adaptive", "tree.HoeffdingAdaptiveTreeClassifier(seed=42)"
        case "multiclass":
            yield "linear", "encode | multiclass.OneVsRestClassifier(linear_model.LogisticRegression())"
            yield "tree", "tree.HoeffdingTreeClassifier()"
            yield "adaptive", "tree.HoeffdingAdaptiveTreeClassifier(seed=42)"
        case "regression":
            yield "linear", "encode | linear_model.LinearRegression()"
            yield "tree", "encode | tree.HoeffdingTreeRegressor()"
            yield "adaptive", "encode | tree.HoeffdingAdaptiveTreeRegressor(seed=42)"


def _quoted(names: Mapping[str, str]) -> str:
    """Return a dict of texts as Python writes it, in double quotes."""
    return encode_json(dict(names)).decode().replace('":"', '": "').replace('","', '", "')
