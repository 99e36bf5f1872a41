"""What people get wrong, each answered by the place and the fix."""

import json
import socket
from pathlib import Path

import pytest
from brokers.ports import fresh, made, run
from test_cli import headrace

from engine.definition.file import load_pipeline
from engine.host.pages import check_port
from engine.kafka.topic_admin import ensure_topics
from engine.settings import KafkaSettings, load_settings
from topics.catalog import Catalog
from topics.codec import Rejected
from topics.errors import BrokerError, DefinitionError, SettingsError
from topics.messages import Record

PIPELINE = """from msgspec import Struct
from river import linear_model

from engine import Labels, Pipeline, Topic
from operators import by, field


class Packet(Struct):
    event_id: str
    event_time: int
    service: str
    size: float


svc = by("service")
features = {
    "size": field("size"),
    "n": svc.count("1m"),
}
pipeline = Pipeline(
    name="mistakes",
    events=Topic("mistakes.packets", Packet, key="service"),
    labels=Labels("mistakes.labels", wait="1m"),
    features=features,
    models={"lr": linear_model.LogisticRegression()},
)
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HEADRACE_KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_KAFKA__BOOTSTRAP_SERVERS"),
        ("HEADRACE_STATEDIR", "HEADRACE_STATE_DIR"),
        ("HEADRACE_WEB_PORT", "HEADRACE_WEB__PORT"),
        ("HEADRACE_CHECKPOINT_INTERVAL", "HEADRACE_CHECKPOINT_INTERVAL_MS"),
        ("headrace_log_lvl", "HEADRACE_LOG_LEVEL"),
    ],
)
def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert name in caught.value.message
    assert caught.value.hint == f"did you mean {meant}?"


def test_a_variable_like_no_setting_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_XYZZY", "1")
    with pytest.raises(SettingsError, match="HEADRACE_XYZZY"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADRACE_DATA", "/data"),
        ("HEADRACE_FAUST_LOGLEVEL", "info"),
        ("HEADRACE_WEB_PORT", "tcp://10.0.0.7:6066"),
        ("HEADRACE_WEB_SERVICE_HOST", "10.0.0.7"),
        ("HEADRACE_SERVICE_PORT_HTTP", "6066"),
        ("HEADRACE_WEB_PORT_6066_TCP_ADDR", "10.0.0.7"),
        ("HEADRACE_STATE_DIR", "/state"),
        ("HEADRACE_KAFKA__BOOTSTRAP_SERVERS", "k:1"),
        ("headrace_web__port", "7"),
    ],
)
def test_other_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    load_settings()


def test_a_worker_whose_port_is_taken_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(PIPELINE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = headrace("run", str(tmp_path / "p.py"), HEADRACE_WEB__PORT=str(port))
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line]
    assert said[0] == f"error: the pages cannot be served on 127.0.0.1:{port}: another process listens there"
    assert "fix: set HEADRACE_WEB__PORT" in said[1]
    assert len(said) == 2


def test_a_free_port_and_a_host_that_is_not_ours() -> None:
    check_port("127.0.0.1", 0, hint="")
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1:6066"):
        check_port("192.0.2.1", 6066, hint="set HEADRACE_WEB__HOST")


def test_what_a_definition_gets_wrong_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "p.py"
    file.write_text(PIPELINE.replace('svc.count("1m")', 'svc.count("1min")'))
    line = next(n for n, text in enumerate(PIPELINE.splitlines(), 1) if 'svc.count("1m")' in text)
    with pytest.raises(DefinitionError) as caught:
        load_pipeline(file)
    place = f"{file}, line {line}: "
    assert caught.value.message == place + """by("service").count: '1min' is no duration"""


@pytest.mark.parametrize(
    ("wrong", "said", "fix"),
    [
        ('svc.coutn("1m")', "'Key' object has no attribute 'coutn'", "did you mean `count`?"),
        ('feild("size")', "name 'feild' is not defined", "did you mean `field`?"),
        ('svc.count("1m)', "unterminated string literal", "shows where"),
    ],
)
def test_a_misspelt_name_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, said: str, fix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("p.py")
    file.write_text(PIPELINE.replace('svc.count("1m")', wrong))
    line = next(n for n, text in enumerate(PIPELINE.splitlines(), 1) if 'svc.count("1m")' in text)
    with pytest.raises(DefinitionError) as caught:
        load_pipeline(file)
    assert said in caught.value.message
    assert f"{file}, line {line}" in caught.value.message
    assert fix in caught.value.hint


CLASSES = PIPELINE.replace("linear_model.LogisticRegression()", "tree.HoeffdingTreeClassifier()").replace(
    "import linear_model", "import tree"
)


@pytest.mark.parametrize(
    ("declared", "labels", "refused"),
    [
        ("", ["smurf", 3, "normal", True], {1, 3}),
        (", type=str", ["smurf", 3, "3"], {1}),
        (", type=int", [0, 3, "smurf", True, 2.5], {2, 3, 4}),
    ],
)
def test_a_label_of_another_type_than_the_classes_is_refused_whatever_came_first(
    tmp_path: Path, declared: str, labels: list[object], refused: set[int]
) -> None:
    file = tmp_path / "p.py"
    text = CLASSES.replace('wait="1m"', f'wait="1m"{declared}')
    file.write_text(text.replace("features=features", 'task="multiclass", features=features'))
    decoder = load_pipeline(file).label_decoder()
    assert decoder is not None
    for order in (range(len(labels)), reversed(range(len(labels)))):
        for n in order:
            value = {"event_id": "e", "label": labels[n], "label_time": 1_700_000_000_000}
            found = decoder.decode(Record("l", 0, n, None, None, json.dumps(value).encode()))
            assert isinstance(found, Rejected) == (n in refused), found
            if isinstance(found, Rejected):
                assert found.stage == "label"
                assert "Labels(type=int)" in found.message
            else:
                assert found.label == str(labels[n])


@pytest.mark.parametrize("declared", ["type=int", "type=float"])
def test_a_type_of_classes_where_there_are_none_is_refused(tmp_path: Path, declared: str) -> None:
    (tmp_path / "p.py").write_text(PIPELINE.replace('wait="1m"', f'wait="1m", {declared}'))
    with pytest.raises(DefinitionError, match=r"labels\.type"):
        load_pipeline(tmp_path / "p.py")


def test_a_missing_topic_is_created_by_the_command_that_is_named(tansu: KafkaSettings) -> None:
    async def play() -> None:
        name = fresh("missing")
        plan = Catalog(name, events=f"{name}.e", labels=f"{name}.l").plan(events=1)
        await made(tansu, f"{name}.e", partitions=1)
        with pytest.raises(BrokerError) as caught:
            await ensure_topics(tansu, plan)
        assert caught.value.message == f"the labels topic {name}.l does not exist"
        assert caught.value.hint == "`headrace topics create PIPELINE.py` creates what is missing"

    run(play())
