"""The chart: helm and Kubernetes' own schemas take what it makes, and a worker can live with it.

Nothing is installed: that needs a cluster.  Of the two kinds that the Prometheus operator adds there are no
schemas here: their rules are read by promtool, and what a scrape needs is looked at.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import CHECKOUT
from tools import said, tool

from engine.host import app as web
from engine.settings import Settings, load_settings

CHART = CHECKOUT / "deploy" / "helm" / "headrace"
FLIGHTS = CHECKOUT / "examples" / "flights" / "pipeline.py"
START_S = 60
"""What a worker may need before it listens: 15 s as measured, with room for a slow machine."""
ONE = {
    "pipeline": {"name": "flights", "code": FLIGHTS.read_text()},
    "kafka": {"bootstrapServers": "kafka-0:9092,kafka-1:9092"},
    "web": {"tokenSecret": {"name": "flights"}},
}
STORED = {"store": {"urlSecret": {"name": "flights"}}, "signingKeySecret": {"name": "flights"}}
MANY = ONE | STORED | {"workers": 3}
SCALED = ONE | STORED | {"autoscaling": {"enabled": True}}
WATCHED = SCALED | {
    "monitoring": {"serviceMonitor": True, "rules": True, "runbooks": "https://wiki.example.org/headrace/"},
    "secretSettings": {"kafka__sasl_password": {"name": "kafka", "key": "password"}},
    "settings": {
        "kafka__security_protocol": "SASL_SSL",
        "kafka__sasl_username": "headrace",
        "unsaved_max": 2_000_000,
    },
}
OUTSIDE = ONE | {
    "pipeline": {"name": "flights", "path": "examples/flights/pipeline.py"},
    "autoscaling": {"enabled": True, "metric": {"type": "External"}},
    "web": {"allowAnonymous": True},
    **STORED,
}
ALL = {"one": ONE, "many": MANY, "scaled": SCALED, "watched": WATCHED, "outside": OUTSIDE}
KUBERNETES = ("1.27", "1.37")
"""The oldest that the chart names, and the newest with schemas."""


@pytest.fixture
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`values(content)` writes values and returns their file; helm keeps to a folder of the test's own."""
    for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "helm"))

    def write(content: dict[str, Any]) -> Path:
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


def made(file: Path) -> list[dict[str, Any]]:
    """Return the objects that the chart makes."""
    done = said(tool("helm"), "template", "flights", CHART, "--values", file)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (one for one in objects if one["kind"] == kind)
    return found


def pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = of_kind(objects, "StatefulSet")["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("name", ALL)
def test_helm_finds_no_fault(name: str, values: Any) -> None:
    done = said(tool("helm"), "lint", "--strict", CHART, "--values", values(ALL[name]))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_object(version: str, values: Any, tmp_path: Path) -> None:
    files = []
    for name, content in ALL.items():
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump_all(made(values(content))))
    done = said(tool("kubernetes-validate"), "-k", version, "--strict", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    for file in files:
        assert (
            f"{file} passed for resource statefulset/flights against version {version}"
            in done.stdout + done.stderr
        )
    without = set(re.findall(r"find schema for kind (\w+)", done.stdout + done.stderr))
    assert without == {"ServiceMonitor", "PrometheusRule"}, "these alone are of no schema that there is"


def test_kubernetes_schemas_refuse_what_is_wrong(values: Any, tmp_path: Path) -> None:
    statefulset = of_kind(made(values(ONE)), "StatefulSet")
    statefulset["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    objects = tmp_path / "objects.yaml"
    objects.write_text(yaml.safe_dump(statefulset))
    done = said(tool("kubernetes-validate"), "-k", KUBERNETES[0], "--strict", objects)
    assert done.returncode
    assert "readynessProbe" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"workers": "two"}, "/workers"),
        ({"worker": 2}, "worker"),
        ({"pipeline": {"code": "x"}}, "/pipeline/name"),
        ({"kafka": {"bootstrapServers": "kafka"}}, "/kafka/bootstrapServers"),
        ({"terminationGracePeriodSeconds": 20}, "/terminationGracePeriodSeconds"),
        ({"image": {"repository": "headrace", "tag": "latest"}}, "/image/tag"),
        ({"pipeline": {"name": "p"}}, "no pipeline: give its file"),
        ({"pipeline": {"name": "p", "code": "x", "path": "y.py"}}, "are both set"),
        ({"workers": 2}, "several workers need a store in common"),
        ({"store": {"urlSecret": {"name": "s"}}}, "a store needs a key that signs"),
        ({"web": {}}, "pages need a token"),
        ({**STORED, "autoscaling": {"enabled": True, "workersMin": 9}}, "workersMin is above"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(changed: dict[str, Any], told: str, values: Any) -> None:
    done = said(tool("helm"), "template", "flights", CHART, "--values", values(ONE | changed))
    assert done.returncode
    assert told in done.stderr


@pytest.mark.parametrize("name", ALL)
def test_a_worker_can_start_be_watched_and_drain(name: str, values: Any) -> None:
    spec = pod(made(values(ALL[name])))
    (worker,) = spec["containers"]
    assert spec["terminationGracePeriodSeconds"] * 1_000 > Settings().drain_deadline_ms
    startup, live, ready = (worker[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))
    assert startup["periodSeconds"] * startup["failureThreshold"] >= START_S
    assert startup["httpGet"]["path"] == live["httpGet"]["path"] == "/livez"
    assert ready["httpGet"]["path"] == "/readyz"
    served = Path(web.__file__).read_text()
    assert all(f'"{path}"' in served for path in ("/livez", "/readyz"))
    assert worker["ports"] == [{"name": "web", "containerPort": Settings().web.port}]


@pytest.mark.parametrize("name", ALL)
def test_a_worker_can_read_its_settings(name: str, values: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable is a setting, and together they are consistent."""
    (worker,) = pod(made(values(ALL[name])))["containers"]
    for entry in worker["env"]:
        source = entry.get("valueFrom", {})
        if "fieldRef" in source:
            assert source["fieldRef"] == {"fieldPath": "metadata.name"}
        value = entry.get("value", "flights-1" if "fieldRef" in source else "redis://of-a-secret:6379/0")
        monkeypatch.setenv(entry["name"], value)
    settings = load_settings()
    assert settings.kafka.group_instance_id == "flights-1", "each pod its own, the same after a restart"
    assert settings.kafka.session_timeout_ms >= START_S * 1_000, "back within its session"
    assert (settings.store_url is not None) == ("store" in ALL[name])


def test_numbers_of_settings_stay_what_they_are(values: Any) -> None:
    """Helm reads numbers as floats: 2000000 must not become 2e+06."""
    (worker,) = pod(made(values(WATCHED)))["containers"]
    told = {entry["name"]: entry.get("value") for entry in worker["env"]}
    assert told["HEADRACE_UNSAVED_MAX"] == "2000000"


def test_no_secret_is_a_value(values: Any) -> None:
    (worker,) = pod(made(values(WATCHED)))["containers"]
    secret = {entry["name"] for entry in worker["env"] if "secretKeyRef" in entry.get("valueFrom", {})}
    assert secret == {
        "HEADRACE_WEB__TOKEN",
        "HEADRACE_STORE_URL",
        "HEADRACE_SIGNING_KEY",
        "HEADRACE_KAFKA__SASL_PASSWORD",
    }


def test_a_pod_has_only_the_rights_it_needs(values: Any) -> None:
    spec = pod(made(values(ONE)))
    (worker,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert worker["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    written = {mount["mountPath"] for mount in worker["volumeMounts"] if not mount.get("readOnly")}
    assert written == {"/var/lib/headrace", "/tmp"}


def test_state_is_kept_on_a_volume_unless_there_is_a_store(values: Any) -> None:
    alone, stored = (of_kind(made(values(one)), "StatefulSet")["spec"] for one in (ONE, MANY))
    (claim,) = alone["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "state"
    assert "volumeClaimTemplates" not in stored
    assert {"name": "state", "emptyDir": {}} in stored["template"]["spec"]["volumes"]


def test_the_file_reaches_the_worker_and_another_file_is_a_rollout(values: Any) -> None:
    objects = made(values(ONE))
    assert of_kind(objects, "ConfigMap")["data"] == {"pipeline.py": FLIGHTS.read_text()}
    (worker,) = pod(objects)["containers"]
    assert worker["args"] == ["run", "/etc/headrace/pipeline.py"]
    changed = ONE | {"pipeline": {"name": "flights", "code": "pipeline = None\n"}}
    sums = {
        of_kind(made(values(one)), "StatefulSet")["spec"]["template"]["metadata"]["annotations"][
            "checksum/pipeline"
        ]
        for one in (ONE, changed)
    }
    assert len(sums) == 2
    outside = made(values(OUTSIDE))
    assert pod(outside)["containers"][0]["args"] == ["run", "examples/flights/pipeline.py"]
    assert not [one for one in outside if one["kind"] == "ConfigMap"]


@pytest.mark.parametrize("name", ALL)
def test_what_selects_pods_selects_them(name: str, values: Any) -> None:
    objects = made(values(ALL[name]))
    statefulset = of_kind(objects, "StatefulSet")
    labels = statefulset["spec"]["template"]["metadata"]["labels"].items()
    service = of_kind(objects, "Service")
    assert service["metadata"]["name"] == statefulset["spec"]["serviceName"]
    assert service["spec"]["clusterIP"] == "None"
    selectors = [
        statefulset["spec"]["selector"]["matchLabels"],
        of_kind(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)


def test_the_autoscaler_goes_by_lag_and_owns_the_number_of_workers(values: Any) -> None:
    for content, kind in ((SCALED, "pods"), (OUTSIDE, "external")):
        objects = made(values(content))
        statefulset, scaler = of_kind(objects, "StatefulSet"), of_kind(objects, "HorizontalPodAutoscaler")
        assert "replicas" not in statefulset["spec"], "an upgrade would undo what the autoscaler did"
        assert scaler["spec"]["scaleTargetRef"]["name"] == statefulset["metadata"]["name"]
        (metric,) = scaler["spec"]["metrics"]
        assert metric[kind]["metric"]["name"] == "headrace_consumer_lag_records"
    assert of_kind(made(values(MANY)), "StatefulSet")["spec"]["replicas"] == 3


def test_prometheus_finds_the_workers_under_the_labels_that_rules_use(values: Any) -> None:
    objects = made(values(WATCHED))
    monitor, service = of_kind(objects, "ServiceMonitor"), of_kind(objects, "Service")
    labels = service["metadata"]["labels"]
    assert labels[monitor["spec"]["jobLabel"]] == "headrace"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    assert endpoint["authorization"] == {
        "type": "Bearer",
        "credentials": {"name": "flights", "key": "web-token"},
    }
    assert endpoint["relabelings"] == [{"targetLabel": "pipeline", "replacement": "flights"}]


def test_the_rules_are_those_of_the_tree_with_an_address_for_runbooks(values: Any, tmp_path: Path) -> None:
    told = of_kind(made(values(WATCHED)), "PrometheusRule")["spec"]
    text = (CHECKOUT / "deploy/prometheus/rules.yml").read_text()
    assert told == yaml.safe_load(
        text.replace("runbook_url: docs/", "runbook_url: https://wiki.example.org/headrace/")
    )
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(told))
    assert said(tool("promtool"), "check", "rules", rules).returncode == 0


def test_what_is_told_after_an_installation_names_what_is_there(values: Any) -> None:
    done = said(tool("helm"), "install", "flights", CHART, "--values", values(SCALED), "--dry-run=client")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "Pipeline flights: 2 to 4 workers, by lag." in notes
    assert "rollout status statefulset/flights" in notes
    assert "within 60000 ms" in notes


def test_chart_and_program_are_of_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["appVersion"] == chart["version"] == version


def test_every_value_has_a_rule_and_every_rule_a_value() -> None:
    """The schema lists what there is, so that a typing error is refused."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    default = yaml.safe_load((CHART / "values.yaml").read_text())
    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() - {"global"} == default.keys()
    used = set(
        re.findall(r"\.Values\.(\w+)", "".join(path.read_text() for path in CHART.glob("templates/*")))
    )
    assert used == default.keys()
