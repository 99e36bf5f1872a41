"""Alert rules and where alerts go: their tools take them, they ask for what is there and say what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from brokers.process import program
from paths import CHECKOUT
from promql import labels_left, problems

PROMETHEUS = CHECKOUT / "deploy" / "prometheus"
ALERTMANAGER = CHECKOUT / "deploy" / "alertmanager" / "alertmanager.yml"
TESTS = Path(__file__).with_name("rules_test.yml")
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
SEVERITIES = {"critical", "warning", "info"}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def headings(document: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", (CHECKOUT / document).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def by_name(rule: dict[str, Any]) -> str:
    return str(rule["alert"])


def test_promtool_takes_the_configuration_and_its_rules() -> None:
    done = run(program("promtool", "prometheus"), "check", "config", PROMETHEUS / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def test_amtool_takes_where_alerts_go() -> None:
    done = run(program("amtool", "prometheus-alertmanager"), "check-config", ALERTMANAGER)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", RULES, ids=by_name)
def test_a_rule_asks_for_what_a_worker_tells(rule: dict[str, Any]) -> None:
    assert problems(rule["expr"]) == []


@pytest.mark.parametrize("rule", RULES, ids=by_name)
def test_a_rule_says_how_bad_it_is_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in SEVERITIES
    told = rule["annotations"]
    assert told.keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = told["runbook_url"].partition("#")
    assert anchor == rule["alert"].lower()
    assert anchor in headings(page)
    used = set(re.findall(r"\$labels\.(\w+)", told["summary"] + told["description"]))
    assert used <= labels_left(rule["expr"]), "a label that the result has not"


def test_every_runbook_is_of_a_rule() -> None:
    told = {heading for heading in headings("docs/runbooks.md") if heading.startswith("headrace")}
    assert told == {rule["alert"].lower() for rule in RULES}


def test_what_inhibits_and_what_is_inhibited_are_alerts_of_ours() -> None:
    names = {rule["alert"] for rule in RULES}
    for one in yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]:
        for matcher in one["source_matchers"] + one["target_matchers"]:
            pattern = re.fullmatch(r'alertname=~?"(.+)"', matcher)[1]  # type: ignore[index]
            assert any(re.fullmatch(pattern, name) for name in names), matcher


def promtool_on(folder: Path, rules: str, about: str = "") -> subprocess.CompletedProcess[str]:
    """Run promtool's tests of rules that may have been changed; those that name an alert, or all."""
    (folder / "rules.yml").write_text(rules)
    tests = yaml.safe_load(TESTS.read_text()) | {"rule_files": ["rules.yml"]}
    tests["tests"] = [test for test in tests["tests"] if about in str(test)]
    assert tests["tests"], f"no test of {about}"
    (folder / TESTS.name).write_text(yaml.safe_dump(tests))
    return run(program("promtool", "prometheus"), "test", "rules", folder / TESTS.name)


def test_rules_fire_when_they_should_and_not_when_they_should_not(tmp_path: Path) -> None:
    done = promtool_on(tmp_path, (PROMETHEUS / "rules.yml").read_text())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("max by (job, pipeline, topic, partition)", "sum by (job, pipeline, topic, partition)"),
        ("changes(process_start_time_seconds[15m]) > 2", "changes(process_start_time_seconds[15m]) > 4"),
        (" and headrace_partitions > 0", ""),
        ("headrace_store_outage_seconds > 0 and on (instance) increase", "increase"),
        (" and headrace_learning_paused == 0", ""),
        ("histogram_quantile(0.99", "histogram_quantile(0.5"),
        ('outcome=~"signature|field|model"', 'outcome=~"served|signature|field|model"'),
        ('outcome=~"mismatch|missing|extra"', 'outcome=~"mismatch|extra"'),
        ("max by (job, pipeline) (headrace_leader)", "min by (job, pipeline) (headrace_leader)"),
        ('{age="1"}[6h])) > 0) < 0.5', '{age="1"}[6h])) > 0) < 0.3'),
        ('up{job="headrace"} == 0 or absent(headrace_partitions)', 'up{job="headrace"} == 0'),
    ],
)
def test_a_rule_that_is_wrong_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    rules = (PROMETHEUS / "rules.yml").read_text()
    about = next(rule["alert"] for rule in RULES if right in rule["expr"])
    assert promtool_on(tmp_path, rules.replace(right, wrong), about).returncode == 1


def test_a_configuration_that_is_wrong_is_refused(tmp_path: Path) -> None:
    """The tools look into the files that they accept."""
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    rules = tmp_path / "prometheus" / "rules.yml"
    rules.write_text(rules.read_text().replace("changes(", "changed("))
    assert run(
        program("promtool", "prometheus"), "check", "config", rules.with_name("prometheus.yml")
    ).returncode
    wrong = tmp_path / "alertmanager.yml"
    wrong.write_text(ALERTMANAGER.read_text().replace("receiver: on-call", "receiver: nobody"))
    assert run(program("amtool", "prometheus-alertmanager"), "check-config", wrong).returncode
