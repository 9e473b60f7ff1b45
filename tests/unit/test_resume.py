"""The state of a run never gets ahead of the confirms, and runs that resume from it omit nothing."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmqkit.errors import PayloadError
from rmqkit.message import Message
from rmqkit.payload import resume, sources
from rmqkit.payload.input_stream import InputPosition, InputStream
from rmqkit.payload.resume import Checkpoint, Resume
from rmqkit.payload.sources import MessageDefaults
from rmqkit.report import Fate
from rmqkit.stop import Stop

_FATES = st.sampled_from([Fate.CONFIRMED] * 6 + [Fate.RETURNED, Fate.NACKED, Fate.REFUSED, Fate.UNKNOWN])


def _place(n: int) -> InputPosition:
    return InputPosition(n * 10, n, n)


@given(st.data(), st.integers(0, 20), st.sets(st.integers(0, 9)), st.integers(0, 5))
def test_every_record_before_the_checkpoint_is_confirmed_or_noted_and_the_one_at_it_is_not(
    data: st.DataObject, count: int, noted: set[int], room: int
) -> None:
    begin = 10
    checkpoint = Checkpoint(_place(begin), {n: _place(n) for n in noted}, max_failed=len(noted) + room)
    records = [*sorted(noted), *range(begin, begin + count)]
    for n in records:
        checkpoint.add(_place(n), _place(n + 1))
    fates = {}
    order = data.draw(st.permutations(range(len(records))))
    for index in order[: data.draw(st.integers(0, len(records)))]:
        fate = fates[records[index]] = data.draw(_FATES)
        checkpoint.settle(index, fate)
        confirmed = {n for n, told in fates.items() if told is Fate.CONFIRMED}
        behind = {*noted, *range(begin, checkpoint.place.n)}
        assert behind == (confirmed & behind) | checkpoint.failed.keys()
        assert not confirmed & checkpoint.failed.keys()
        assert len(checkpoint.failed) <= len(noted) + room
        assert checkpoint.place.n not in confirmed
        assert checkpoint.beyond == begin + count - checkpoint.place.n


def _lines(defaults: MessageDefaults, stream: InputStream, place: InputPosition) -> object:
    stream.seek(place)
    return sources.lines(defaults, stream)


def _open(path: Path, state: Path, job: str = "job") -> Resume:
    stream = InputStream(str(path), Stop())
    return Resume(str(state), job, stream, lambda place: _lines(MessageDefaults(), stream, place))  # type: ignore[arg-type,return-value]


def _run(kept: Resume, rng: random.Random, *, crash: bool, failing: float = 0.0) -> list[bytes]:
    """Publish with confirms in any order, within a window of 8; return the bodies that arrived."""
    pending: list[tuple[int, Message]] = []
    arrived: list[bytes] = []

    def settle() -> None:
        index, message = pending.pop(rng.randrange(len(pending)))
        fate = Fate.RETURNED if rng.random() < failing else Fate.CONFIRMED
        if fate is Fate.CONFIRMED:
            arrived.append(message.body)
        kept.settled(index, message, fate)

    life = rng.randrange(60) if crash else 10_000
    for index, message in enumerate(each for each in kept.messages() if each is not None):
        pending.append((index, message))
        while pending and (len(pending) == 8 or rng.random() < 0.4):
            settle()
        if index == life:
            return arrived + [message.body for _, message in pending]  # killed; what was on its way arrived
    while pending:
        settle()
    kept.finish(complete=True)
    return arrived


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.binary(max_size=4).map(lambda line: line.replace(b"\n", b"")), max_size=150),
    st.booleans(),
)
def test_runs_that_are_killed_and_resumed_omit_no_line_and_repeat_few(
    tmp_path_factory: pytest.TempPathFactory, seed: int, bodies: list[bytes], ended: bool
) -> None:
    folder, rng = tmp_path_factory.mktemp("resume"), random.Random(seed)
    path, state = folder / "in", folder / "state"
    lines = [b"%d %s" % (number, body) for number, body in enumerate(bodies)]
    path.write_bytes(b"\n".join(lines) + (b"\n" if ended and lines else b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "SAVE_EVERY", 5)
        arrived: list[bytes] = []
        runs = 0
        while not state.exists() or json.loads(state.read_text())["status"] != "done":
            kept = _open(path, state)
            arrived += _run(kept, rng, crash=runs < 8, failing=0.2 if runs < 8 else 0)
            del kept  # as the end of its process would
            runs += 1
            assert runs < 12
    assert set(arrived) == set(lines)
    assert len(arrived) - len(lines) <= runs * (5 + 8)


def test_after_a_clean_stop_nothing_is_sent_twice_and_failed_messages_are_sent_first(tmp_path: Path) -> None:
    path, state = tmp_path / "in", tmp_path / "state"
    path.write_bytes(b"".join(b"%d\n" % n for n in range(100)))
    first = _open(path, state)
    for index, message in enumerate(each for each in first.messages() if each is not None):
        first.settled(index, message, Fate.RETURNED if index in (3, 40) else Fate.CONFIRMED)
        if index == 49:
            break
    first.finish(complete=False)
    again = _open(path, state)
    assert (again.skipped, again.retried, again.doubtful) == (48, 2, 0)
    bodies = [each.body for each in again.messages() if each is not None]
    assert bodies == [b"3", b"40", *(b"%d" % n for n in range(50, 100))]


def test_a_message_of_unknown_fate_holds_the_checkpoint_before_it(tmp_path: Path) -> None:
    path, state = tmp_path / "in", tmp_path / "state"
    path.write_bytes(b"0\n1\n2\n")
    kept = _open(path, state)
    for index, message in enumerate(each for each in kept.messages() if each is not None):
        kept.settled(index, message, Fate.UNKNOWN if index == 1 else Fate.CONFIRMED)
    kept.finish(complete=True)
    assert json.loads(state.read_text())["status"] == "stopped"
    again = _open(path, state)
    assert again.doubtful == 2
    assert [each.body for each in again.messages() if each is not None] == [b"1", b"2"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (b"a\nb\n", b"a\nb\nc\n", [b"c"]),
        (b"a\nb", b"a\nb\n", []),
        (b"a\nb", b"a\nb\nc", [b"c"]),
        (b"a\nb", b"a\nbc\n", "line 2 of .* had no end when it was published"),
        (b"a\nb\n", b"a\nc\nd\n", "was changed in the part already published"),
        (b"a\nb\n", b"a\n", "was changed in the part already published"),
    ],
)
def test_a_run_resumes_an_input_that_grew_and_refuses_one_that_was_changed(
    tmp_path: Path, before: bytes, after: bytes, expected: list[bytes] | str
) -> None:
    path, state = tmp_path / "in", tmp_path / "state"
    path.write_bytes(before)
    _run(_open(path, state), random.Random(1), crash=False)
    path.write_bytes(after)
    if isinstance(expected, str):
        with pytest.raises(PayloadError, match=expected):
            _open(path, state)
    else:
        assert [each.body for each in _open(path, state).messages() if each is not None] == expected


def test_the_state_of_another_job_or_any_other_file_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    path, state = tmp_path / "in", tmp_path / "state"
    path.write_bytes(b"a\n")
    _run(_open(path, state), random.Random(1), crash=False)
    before = state.read_bytes()
    with pytest.raises(PayloadError, match="it belongs to a run that publishes job, but this one publishes another"):
        _open(path, state, "another")
    beyond = [
        before.replace(b'"failed": []', b'"failed": [{"offset": %d, "line": 0, "n": 0}]' % offset) for offset in (-1, 3)
    ]
    for content in (b"", b"{}", b"[1]", b"a\n", before[:-20], before.replace(b'"line": 1', b'"line": "1"'), *beyond):
        state.write_bytes(content)
        with pytest.raises(PayloadError, match="is not the state of a run"):
            _open(path, state)
        assert state.read_bytes() == content


def test_a_state_that_cannot_be_written_ends_the_run_before_the_first_message(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"a\n")
    with pytest.raises(PayloadError, match="the state cannot be written"):
        next(_open(path, tmp_path / "nowhere" / "state").messages())


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    path, state = tmp_path / "in", tmp_path / "state"
    path.write_bytes(b"a\n")
    first = _open(path, state)
    list(first.messages())
    for _ in range(2):
        with pytest.raises(PayloadError, match="another run is using it"):
            _open(path, state)
    first.finish(complete=False)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in", "state"]
    second = _open(path, state)
    with pytest.raises(PayloadError, match="another run is using it"):
        _open(path, state)
    second.finish(complete=False)
