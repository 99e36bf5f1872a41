"""What a PromQL expression asks of a worker: which metrics, labels and values, and which labels are left.

`problems` is an oracle for dashboards and rules: it parses an expression and holds every selector against a
scrape, so that a metric that was renamed, a label that is gone or a value that is never counted is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import metrics_page
from paths import CHECKOUT
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    LabelModifierType,
    MatchOp,
    MatrixSelector,
    ParenExpr,
    SubqueryExpr,
    UnaryExpr,
    VectorSelector,
    parse,
)

from engine.definition.file import load_pipeline
from engine.metrics import COUNTERS

TARGET = frozenset({"job", "instance", "pipeline"})
"""Labels that Prometheus gives to every series of a target."""
OF_PROMETHEUS: dict[str, frozenset[str]] = {
    "up": frozenset(),
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
}
OF_PIPELINES = {"model", "blend", "rule", "function", "policy", "detector", "subject", "feature"}
"""Labels whose values come from a pipeline's file: none of them is told by another pipeline."""


@cache
def series() -> dict[str, frozenset[str]]:
    """Return the labels of every series that there is, by its name."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    found = dict(OF_PROMETHEUS)
    for family in (*metrics_page.families(), *registry.collect()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, frozenset()) | sample.labels.keys()
    return found


@cache
def counted() -> dict[tuple[str, str], frozenset[str]]:
    """Return the values that a label of a counter may have, by metric and label."""
    flights = load_pipeline(CHECKOUT / "examples/flights/pipeline.py")
    found: dict[tuple[str, str], frozenset[str]] = {}
    for family in COUNTERS:
        values = [value.split(" ", len(family.labels) - 1) for value in family.values(flights)]
        for place, label in enumerate(family.labels):
            if values and label not in OF_PIPELINES:
                found[f"{family.name}_total", label] = frozenset(value[place] for value in values)
    return found


def problems(expression: str) -> list[str]:
    """Return what is wrong with an expression; nothing where it asks for what is there.

    Raises:
        ValueError: it is no PromQL.
    """
    parsed = parse(expression)
    return [*_of_selectors(parsed), *_of_groupings(parsed)]


def labels_left(expression: str) -> frozenset[str]:
    """Return the labels that results of an expression may have."""
    return _carried(parse(expression))


def metrics(expression: str) -> set[str]:
    """Return the names of the series that an expression reads."""
    return {selector.name or "" for selector in _selectors(parse(expression))}


def _children(node: Expr) -> list[Expr]:
    match node:
        case BinaryExpr():
            return [node.lhs, node.rhs]
        case Call():
            return list(node.args)
        case MatrixSelector():
            return [node.vector_selector]
        case AggregateExpr() | ParenExpr() | SubqueryExpr() | UnaryExpr():
            return [node.expr]
    return []


def _walk(node: Expr) -> Iterator[Expr]:
    yield node
    for child in _children(node):
        yield from _walk(child)


def _selectors(node: Expr) -> Iterator[VectorSelector]:
    return (one for one in _walk(node) if isinstance(one, VectorSelector))


def _of_selectors(parsed: Expr) -> Iterator[str]:
    for selector in _selectors(parsed):
        name = selector.name or ""
        if name not in series():
            yield f"there is no metric {name!r}"
            continue
        for matcher in selector.matchers.matchers:
            if matcher.name not in series()[name] | TARGET:
                yield f"{name} has no label {matcher.name!r}"
                continue
            known = counted().get((name, matcher.name))
            # Operators of this parser can be compared and not hashed.
            if known and (matcher.op == MatchOp.Equal or matcher.op == MatchOp.Re):
                values = matcher.value.split("|") if matcher.op == MatchOp.Re else [matcher.value]
                yield from (
                    f"{name}: {matcher.name} is never {value!r}"
                    for value in values
                    if not any(re.fullmatch(value, one) for one in known)
                )


def _of_groupings(parsed: Expr) -> Iterator[str]:
    for node in _walk(parsed):
        if isinstance(node, AggregateExpr) and node.modifier is not None:
            for label in set(node.modifier.labels) - _carried(node.expr) - TARGET:
                yield f"{node.op} by {label!r}, which nothing of {node.expr.prettify()!r} has"
        if isinstance(node, BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
            for label in set(node.modifier.matching.labels):
                if label not in _carried(node.lhs) & _carried(node.rhs):
                    yield f"matched on {label!r}, which a side of {node.op} lacks"


def _carried(node: Expr) -> frozenset[str]:
    """Return the labels that the results of a part may have."""
    match node:
        case VectorSelector():
            return series().get(node.name or "", frozenset()) | TARGET
        case AggregateExpr():
            inner = _carried(node.expr)
            if str(node.op) in {"topk", "bottomk"}:
                return inner
            if node.modifier is None:
                return frozenset()
            named = frozenset(node.modifier.labels)
            return inner & named if node.modifier.type == AggModifierType.By else inner - named
        case Call():
            inner = frozenset().union(*(_carried(one) for one in node.args))
            if node.func.name == "absent":
                return frozenset()
            return inner - {"le"} if node.func.name == "histogram_quantile" else inner
        case BinaryExpr():
            return _of_operation(node)
    return frozenset().union(*(_carried(child) for child in _children(node)))


def _of_operation(node: BinaryExpr) -> frozenset[str]:
    left, right = _carried(node.lhs), _carried(node.rhs)
    if str(node.op) == "or":
        return left | right
    matching = node.modifier.matching if node.modifier is not None else None
    is_one_to_one = matching is not None and not node.modifier.group_labels  # type: ignore[union-attr]
    if str(node.op) not in {"and", "unless"} and matching is not None and is_one_to_one:
        named = frozenset(matching.labels)
        return left & named if matching.type == LabelModifierType.Include else left - named
    return left or right
