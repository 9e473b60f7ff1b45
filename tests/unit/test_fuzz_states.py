"""Whatever an editor or a broken disk leaves in rmqkit's own files, it does not crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.cli import last_applied
from rmqkit.errors import PayloadError
from rmqkit.model import Contract, Queue, Retry, Target, Topology
from rmqkit.payload.input_stream import InputPosition, InputStream
from rmqkit.payload.resume import Resume
from rmqkit.payload.sources import MessageDefaults, lines
from rmqkit.report import Fate
from rmqkit.settings import load_settings
from rmqkit.stop import Stop
from tests.support.fuzzing import JSON_VALUES, examples, mutated, outcome, tampered

INPUT = b"".join(b"%d\n" % n for n in range(20))
PLACES = st.integers(-3, 60) | st.integers(-(2**70), 2**70) | JSON_VALUES


def resume_run(folder: Path) -> None:
    """Publish the rest of the input after its state, as `publish --resume` does."""
    stream = InputStream(str(folder / "in"), Stop())

    def read(begin: InputPosition) -> Any:
        stream.seek(begin)
        return lines(MessageDefaults(routing_key="q"), stream)

    try:
        kept = Resume(str(folder / "state"), "job", stream, read)
        for index, message in enumerate(each for each in kept.messages() if each is not None):
            assert message.body.isdigit() or not message.body
            kept.settled(index, message, Fate.RETURNED if index == 3 else Fate.CONFIRMED)
            if index == 30:
                break
        kept.finish(complete=False)
    finally:
        stream.close()


@pytest.fixture
def state(tmp_path: Path) -> bytes:
    """Return the state of a run that was stopped half-way."""
    (tmp_path / "in").write_bytes(INPUT[:20])
    resume_run(tmp_path)
    (tmp_path / "in").write_bytes(INPUT)
    return (tmp_path / "state").read_bytes()


@examples(150)
@given(st.data())
def test_a_run_resumes_from_a_state_of_any_content_or_refuses_it(
    tmp_path: Path, state: bytes, data: st.DataObject
) -> None:
    sample = json.loads(state)
    content = data.draw(
        mutated([state], [b"-1", b"9" * 30, b"1.5", b"null", b"[" * 3000])
        | tampered(sample, PLACES).map(json.dumps).map(str.encode)
    )
    (tmp_path / "state").write_bytes(content)
    found = outcome(lambda: resume_run(tmp_path), PayloadError)
    assert found is None or str(tmp_path) in str(found)


APPLIED = Topology(
    queues=(
        Queue("q", contract=Contract("json", "/x"), retry=Retry((5,), "parked")),
        Queue("r", arguments={"x-dead-letter-exchange": ""}),
    ),
    publish=Target("e", "k"),
)


@pytest.fixture
def applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that remembers what was applied."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    last_applied.remember(load_settings(["amqp://h"]), APPLIED, ["a.yaml"])
    (file,) = (each for each in tmp_path.rglob("*") if each.is_file())
    return file


@examples(150)
@given(st.data())
def test_a_saved_topology_is_recalled_correctly_or_not_at_all(applied: Path, data: st.DataObject) -> None:
    good = json.dumps(SAMPLE).encode()
    content = data.draw(mutated([good]) | tampered(SAMPLE).map(json.dumps).map(str.encode))
    applied.write_bytes(content)
    found = outcome(lambda: last_applied.recall(load_settings(["amqp://h"])))
    if isinstance(found, last_applied.LastApplied):
        assert all(isinstance(each, Target | None) for each in (found.target, *found.dead_letters.values()))
        assert all(isinstance(each, Contract) for each in (*found.exchanges.values(), *found.queues.values()))
        assert all(isinstance(each, Retry) for each in found.retries.values())
        found.failure_target("q")


SAMPLE = {
    "broker": "h:5672/",
    "files": ["a.yaml"],
    "publish": {"exchange": "e", "routing_key": "k"},
    "exchanges": {},
    "queues": {"q": {"format": "json", "schema": "/x"}},
    "dead_letters": {"q": None, "r": {"exchange": "", "routing_key": ""}},
    "retries": {"q": {"delays_ms": [5], "then": "parked"}},
    "sources": {"queue q": ["a.yaml"], "queue r": ["a.yaml"]},
}


def test_the_sample_equals_the_saved_topology(applied: Path) -> None:
    assert json.loads(applied.read_bytes()).keys() == SAMPLE.keys()
