"""The order of a takeover, its refusals, and the look before a checkpoint."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from operators.claims.rule import Log, LogPosition
from operators.claims.takeover import (
    TAIL_OFFSETS_MAX,
    TRIES_MAX,
    Bounds,
    Fence,
    FindBounds,
    LoadCheckpoint,
    LogBatch,
    LogRecord,
    Look,
    ReadLog,
    Sent,
    Settle,
    StoreBehind,
    Stored,
    Takeover,
    WriteClaim,
    cut,
    fits,
    keeps,
    log_positions,
    still_owner,
    takeover,
)
from topics.errors import BrokerError, CheckpointError, ClaimError
from topics.messages import Claim, Command, Example, Prediction

SOURCE = 2
PREDICTIONS = ("predictions", SOURCE)
NONCE = "ours"


class Saved(NamedTuple):
    logs: tuple[LogPosition, ...]


class Shell:
    """Answers requests from lists, at once; `before` lets something happen ahead of a request."""

    def __init__(self, *, claim: int = 0, checkpoint: Saved | None = None, partitions: int = 1) -> None:
        self.claim, self.checkpoint, self.partitions = claim, checkpoint, partitions
        examples = {("examples", number): [] for number in range(partitions)}
        self.logs: dict[Log, list[Any]] = {PREDICTIONS: [], **examples}
        self.starts: dict[Log, int] = {}
        self.asked: list[Any] = []
        self.sent = Sent(0, 0)
        """What the owner has sent to its predictions log."""
        self.before: dict[type, Any] = {}

    def run(self, steps: Generator[Any, Any, Any]) -> Any:
        answer: Any = None
        try:
            while True:
                request = steps.send(answer)
                self.asked.append(request)
                if happens := self.before.get(type(request)):
                    happens(request)
                answer = self._answer(request)
        except StopIteration as end:
            return end.value

    def take_over(self, **options: Any) -> Takeover:
        steps = takeover(SOURCE, NONCE, examples=range(self.partitions), **options)
        owned: Takeover = self.run(steps)
        return owned

    def _answer(self, request: Any) -> Any:
        match request:
            case Look():
                return Stored(self.claim, self.checkpoint.logs if self.checkpoint else (), " the store")
            case Fence(above):
                self.claim = max(self.claim, above) + 1
                return self.claim
            case LoadCheckpoint():
                return self.checkpoint
            case FindBounds(target, partition):
                return Bounds(self.starts.get((target, partition), 0), len(self.logs[target, partition]))
            case WriteClaim(target, partition, claim):
                self.logs[target, partition].append(claim)
                return len(self.logs[target, partition]) - 1
            case ReadLog(target, partition, position, until):
                values = self.logs[target, partition][position:until]
                return LogBatch([LogRecord(position + n, v) for n, v in enumerate(values)], until)
            case Settle():
                return self.sent

    def written(self) -> list[tuple[str, int, int]]:
        claims = [asked for asked in self.asked if isinstance(asked, WriteClaim)]
        return [(asked.target, asked.partition, asked.value.claim) for asked in claims]


def answers(claim: int, *offsets: int) -> list[Prediction]:
    return [
        Prediction(f"p:e{o}", f"e{o}", 0, 0, "m", 1, 0, "champion", 0.5, True, "", {}, o, claim, number)
        for number, o in enumerate(offsets)
    ]


def examples(claim: int, *offsets: int, source: int = SOURCE) -> list[Example]:
    return [
        Example(f"e{o}", "k", 0, 0, True, {}, {}, 0.5, "", "m", source, o, o, claim, number)
        for number, o in enumerate(offsets)
    ]


def suppressed(owned: Takeover, offsets: Sequence[int] = range(10)) -> tuple[list[int], list[int]]:
    found = owned.suppression
    return (
        [o for o in offsets if found.answered(f"e{o}", o)],
        [o for o in offsets if found.exampled(f"e{o}", o)],
    )


def test_the_order_of_a_first_takeover() -> None:
    shell = Shell(partitions=2)
    owned = shell.take_over()
    assert (owned.claim, owned.checkpoint, owned.logs, owned.suppression.empty) == (1, None, (), True)
    assert owned.behind is None
    assert shell.written() == [
        ("predictions", SOURCE, -1),
        ("examples", 0, 1),
        ("examples", 1, 1),
        ("predictions", SOURCE, 1),
    ]
    kinds = [type(asked) for asked in shell.asked]
    assert kinds.index(Look) < kinds.index(Fence) < kinds.index(LoadCheckpoint) < kinds.index(WriteClaim)
    last_claim = max(place for place, kind in enumerate(kinds) if kind is WriteClaim)
    assert kinds[last_claim + 1 :] == [ReadLog]


def test_what_counts_after_the_checkpoint_is_suppressed() -> None:
    logs = (LogPosition("examples", 0, 1, 4, 1), LogPosition(*PREDICTIONS, 2, 4, 2))
    shell = Shell(claim=4, checkpoint=Saved(logs))
    shell.logs[PREDICTIONS] = [None, None, *answers(4, 0, 1, 2, 3)[2:], *answers(3, 4)]
    foreign = [Claim(0, 9), *examples(9, 8, source=0)]
    command = Command("c", "pause", 0)
    shell.logs["examples", 0] = [None, *foreign, command, *examples(4, 0, 5)[1:], *examples(4, 0, 5)]
    owned = shell.take_over()
    assert owned.claim == 5
    assert suppressed(owned) == ([2, 3], [5])


def test_what_comes_between_the_looks_and_the_own_claims_is_found() -> None:
    shell = Shell(claim=1)
    shell.logs["examples", 0] = [Claim(SOURCE, 1)]
    shell.logs[PREDICTIONS] = [Claim(SOURCE, 1), *answers(1, 0)]

    def zombie_writes(request: WriteClaim) -> None:
        if request.target == "examples":
            shell.logs[PREDICTIONS] += answers(1, 0, 1)[1:]
        elif request.value.claim > 0:
            shell.logs["examples", 0] += examples(1, 0)

    shell.before[WriteClaim] = zombie_writes
    owned = shell.take_over()
    assert suppressed(owned) == ([0, 1], [])


def test_a_log_that_is_read_already_is_not_read_again() -> None:
    shell = Shell(claim=1)
    shell.logs[PREDICTIONS] = [Claim(SOURCE, 1), *answers(1, 0, 1, 2)]
    shell.take_over()
    reads = [asked for asked in shell.asked if isinstance(asked, ReadLog) and asked.target == "predictions"]
    assert [(read.position, read.until) for read in reads] == [(0, 4), (4, 5)]


def test_a_checkpoint_saved_in_between_is_the_one_to_begin_from() -> None:
    shell = Shell(claim=1)
    shell.logs[PREDICTIONS] = [Claim(SOURCE, 1), *answers(1, 0, 1)]

    def older_owner_saves(_: Fence) -> None:
        shell.checkpoint = Saved((LogPosition("examples", 0, 0, 1, 0), LogPosition(*PREDICTIONS, 2, 1, 1)))

    shell.before[Fence] = older_owner_saves
    owned = shell.take_over()
    assert owned.checkpoint is shell.checkpoint
    assert suppressed(owned) == ([1], [])


@pytest.mark.parametrize("logged", [[Claim(SOURCE, 7)], answers(7, 0), [Claim(SOURCE, -7), *answers(3, 0)]])
def test_a_store_behind_the_log_claims_above_it_and_says_so(logged: list[Any]) -> None:
    """Records tell the claim too: its own record may have expired."""
    shell = Shell(claim=3)
    shell.logs[PREDICTIONS] = [*logged]
    owned = shell.take_over()
    assert owned.claim == 8
    assert owned.behind == StoreBehind(3, 7, " the store")
    assert shell.written() == [
        ("predictions", SOURCE, -8),
        ("examples", 0, 8),
        ("predictions", SOURCE, 8),
    ]


def test_an_examples_log_alone_can_show_that_the_store_is_behind() -> None:
    shell = Shell()
    shell.logs["examples", 0] = [Claim(SOURCE, 57), *examples(57, 0)]
    owned = shell.take_over()
    assert owned.claim == 58
    assert owned.behind == StoreBehind(1, 57, " the store")
    assert suppressed(owned) == ([], [0])


def test_an_empty_store_begins_with_the_first_records_and_leaves_out_all_that_counts() -> None:
    shell = Shell()
    shell.logs[PREDICTIONS] = [Claim(SOURCE, 7), *answers(7, 0, 1), Claim(SOURCE, -9), *answers(7, 5)]
    shell.logs["examples", 0] = [Claim(SOURCE, 7), *examples(7, 1)]
    owned = shell.take_over(inputs=())
    assert owned.claim == 10
    assert suppressed(owned) == ([0, 1], [1])


def test_a_long_log_is_not_read_for_a_look() -> None:
    shell = Shell()
    shell.logs[PREDICTIONS] = [*answers(1, *range(TAIL_OFFSETS_MAX)), Claim(SOURCE, 7)]
    shell.run(fits(SOURCE))
    assert {type(asked) for asked in shell.asked} == {Look, FindBounds, ReadLog}
    read = sum(asked.until - asked.position for asked in shell.asked if isinstance(asked, ReadLog))
    assert read == TAIL_OFFSETS_MAX


def test_a_look_at_a_pipeline_that_never_ran_finds_nothing() -> None:
    shell = Shell()
    shell.run(fits(SOURCE))
    assert shell.asked == [Look(), FindBounds(*PREDICTIONS)]


def test_a_look_refuses_a_log_without_the_checkpoints_offset() -> None:
    shell = Shell(claim=1, checkpoint=Saved((LogPosition(*PREDICTIONS, 2, 1, 1),)))
    with pytest.raises(CheckpointError, match="reads on from 2, the log holds 0 to 0"):
        shell.run(fits(SOURCE))


def test_a_look_while_the_owner_changes_refuses_nobody() -> None:
    shell = without_beginnings()
    shell.logs[PREDICTIONS] = [*range(2)]

    def another_takes_over(_: FindBounds) -> None:
        if shell.claim == 0:
            shell.claim = 4
            shell.logs[PREDICTIONS].append(Claim(SOURCE, 4))

    shell.before[FindBounds] = another_takes_over
    shell.run(fits(SOURCE, inputs=INPUTS))
    assert shell.claim == 4


def test_an_owner_that_claims_while_we_look_does_not_make_the_store_one_that_is_behind() -> None:
    shell = Shell(claim=3)

    def another_takes_over(_: FindBounds) -> None:
        if shell.claim == 3:
            shell.claim = 4
            shell.logs[PREDICTIONS].append(Claim(SOURCE, 4))

    shell.before[FindBounds] = another_takes_over
    owned = shell.take_over()
    assert (owned.claim, owned.behind) == (5, None)


@pytest.mark.parametrize("log", [PREDICTIONS, ("examples", 0)])
@pytest.mark.parametrize("number", [-5, 5, -4, 4])
def test_another_owner_before_our_claim_makes_us_start_over_above_it(log: Log, number: int) -> None:
    """A store that went back can give our number to another one, too."""
    shell = Shell(claim=3)

    def another_claims(request: WriteClaim) -> None:
        first = request.value.claim == (-4 if log == PREDICTIONS else 4)
        if first and log == (request.target, request.partition):
            shell.logs[log].append(Claim(SOURCE, number, "theirs"))

    shell.before[WriteClaim] = another_claims
    owned = shell.take_over()
    assert owned.claim == abs(number) + 1
    assert shell.claim == owned.claim


def test_our_own_claim_that_lies_there_twice_is_none_of_another() -> None:
    shell = Shell(claim=3)
    shell.before[WriteClaim] = lambda request: shell.logs[request.target, request.partition].append(
        request.value
    )
    assert shell.take_over().claim == 4


def test_a_later_claim_of_our_number_is_the_others_affair() -> None:
    """That one finds ours, and starts over."""
    shell = Shell(claim=3)

    def twin(_: ReadLog) -> None:
        if shell.logs[PREDICTIONS][-1:] == [Claim(SOURCE, 4, NONCE)]:
            shell.logs[PREDICTIONS].append(Claim(SOURCE, 4, "theirs"))

    shell.before[ReadLog] = twin
    assert shell.take_over().claim == 4


def test_rivals_that_never_rest_are_an_error() -> None:
    shell = Shell()

    def twin(request: WriteClaim) -> None:
        shell.logs[PREDICTIONS].append(replace(request.value, nonce="theirs"))

    shell.before[WriteClaim] = twin
    with pytest.raises(ClaimError, match=f"{TRIES_MAX} times in between"):
        shell.take_over()


@pytest.mark.parametrize(
    ("start", "length", "helps"),
    [(3, 9, "--accept-lost-records"), (0, 1, "an empty store .another HEADRACE_STATE_DIR")],
)
def test_a_log_without_the_checkpoints_offset_is_refused(start: int, length: int, helps: str) -> None:
    shell = Shell(claim=1, checkpoint=Saved((LogPosition(*PREDICTIONS, 2, 1, 1),)))
    shell.logs[PREDICTIONS] = [Claim(SOURCE, 1)] * length
    shell.starts[PREDICTIONS] = start
    refusal = f"reads on from 2, the log holds {start} to {length}(?s:.)*{helps}"
    with pytest.raises(CheckpointError, match=refusal):
        shell.take_over()


def test_told_so_it_goes_on_without_what_was_deleted_and_counts_it() -> None:
    """What is left of a claim still counts: it is not answered again."""
    shell = Shell(claim=1, checkpoint=Saved((LogPosition(*PREDICTIONS, 2, 1, 1),)))
    shell.logs[PREDICTIONS] = [Claim(SOURCE, 1), *answers(1, 0, 1, 2, 3, 4)]
    shell.starts[PREDICTIONS] = 4
    owned = shell.take_over(accept_lost=True)
    assert owned.lost == {PREDICTIONS: 2}
    assert suppressed(owned) == ([3, 4], [])


INPUTS = ("events", "labels")


def without_beginnings() -> Shell:
    """A store that is lost, and logs whose first records retention has deleted."""
    shell = Shell()
    shell.logs |= {(role, SOURCE): list(range(9)) for role in INPUTS}
    shell.logs[PREDICTIONS] = [Claim(SOURCE, 7), *answers(7, 0, 1, 2, 3)]
    shell.logs["examples", 0] = [Claim(SOURCE, 7), *examples(7, 2)]
    shell.starts |= {("events", SOURCE): 3, ("labels", SOURCE): 1, PREDICTIONS: 2}
    return shell


def test_a_lost_store_is_not_made_up_for_by_logs_that_have_lost_their_beginnings() -> None:
    shell = without_beginnings()
    counts = (
        f"3 of events .partition {SOURCE}., 1 of labels .partition {SOURCE}., 2 of predictions"
        f" .partition {SOURCE}.(?s:.)*--accept-lost-records"
    )
    for steps in (
        takeover(SOURCE, NONCE, inputs=INPUTS),
        fits(SOURCE, inputs=INPUTS),
    ):
        with pytest.raises(ClaimError, match=counts):
            shell.run(steps)
    assert (shell.claim, shell.written()) == (0, [])
    shell.starts.clear()
    shell.run(fits(SOURCE, inputs=INPUTS))
    owned = shell.take_over(inputs=INPUTS)
    assert owned.lost == {}


def test_told_so_a_lost_store_is_made_up_for_by_what_is_left() -> None:
    shell = without_beginnings()
    shell.run(fits(SOURCE, inputs=INPUTS, accept_lost=True))
    owned = shell.take_over(inputs=INPUTS, accept_lost=True)
    assert owned.claim == 8
    assert owned.lost == {("events", SOURCE): 3, ("labels", SOURCE): 1, PREDICTIONS: 2}
    assert suppressed(owned) == ([1, 2, 3], [2])


def test_a_first_start_misses_nothing_of_topics_that_began_before_it() -> None:
    shell = Shell()
    shell.logs |= {(role, SOURCE): list(range(9)) for role in INPUTS}
    shell.starts |= {(role, SOURCE): 3 for role in INPUTS}
    owned = shell.take_over(inputs=INPUTS)
    assert owned.lost == {}


def test_more_than_may_be_replayed_is_refused_with_the_setting() -> None:
    shell = Shell(claim=1)
    shell.logs[PREDICTIONS] = [Claim(SOURCE, 1), *answers(1, 0, 1, 2)]
    with pytest.raises(ClaimError, match=r"more than 2 records(?s:.)*HEADRACE_REPLAY_MAX"):
        shell.take_over(suppressed_max=2)
    assert len(shell.take_over(suppressed_max=3).suppression) == 3


def test_a_log_that_cannot_be_read_is_an_error() -> None:
    steps = takeover(SOURCE, NONCE)
    assert isinstance(next(steps), Look)
    steps.send(Stored(0, ()))
    assert isinstance(steps.send(Bounds(0, 3)), ReadLog)
    with pytest.raises(BrokerError, match="beyond offset 0"):
        steps.send(LogBatch((), 0))


def owner_with(shell: Shell, sent: int) -> Takeover:
    """Take over and write `sent` predictions."""
    owned = shell.take_over()
    writes(shell, owned, range(sent))
    owned.writer.acknowledged(PREDICTIONS, shell.sent.position - 1)
    shell.asked.clear()
    return owned


def writes(shell: Shell, owned: Takeover, offsets: Sequence[int]) -> None:
    """Let the owner answer the events at these offsets."""
    for offset in offsets:
        number = owned.writer.next(PREDICTIONS)
        shell.logs[PREDICTIONS] += [replace(answers(owned.claim, offset)[0], sequence=number)]
    shell.sent = Sent(owned.writer.numbered[PREDICTIONS], len(shell.logs[PREDICTIONS]))


def test_an_owner_alone_in_its_log_reads_nothing_before_a_checkpoint() -> None:
    shell = Shell()
    owned = owner_with(shell, sent=3)
    assert shell.run(still_owner(owned, cut(owned))) is True
    assert shell.run(still_owner(owned, cut(owned))) is True
    assert shell.asked == [FindBounds(*PREDICTIONS), Settle(*PREDICTIONS)] * 2


def test_an_owner_that_goes_on_writing_reads_nothing_either() -> None:
    """What it writes before, between and after the two questions belongs to the next checkpoint."""
    shell = Shell()
    owned = owner_with(shell, sent=3)
    at = cut(owned)
    positions = log_positions(owned, at)
    writes(shell, owned, [3])
    shell.before[Settle] = lambda _: writes(shell, owned, [4, 5])
    assert shell.run(still_owner(owned, at)) is True
    assert shell.asked == [FindBounds(*PREDICTIONS), Settle(*PREDICTIONS)]
    assert log_positions(owned, at) == positions
    assert positions[-1] == LogPosition(*PREDICTIONS, 5, 1, 3)
    resumed = Shell(claim=1, checkpoint=Saved(positions))
    resumed.logs = shell.logs
    taken = resumed.take_over()
    assert suppressed(taken) == ([3, 4, 5], [])


def test_a_claim_between_what_the_owner_goes_on_writing_is_found() -> None:
    shell = Shell()
    owned = owner_with(shell, sent=3)
    at = cut(owned)
    writes(shell, owned, [3])
    shell.logs[PREDICTIONS].append(Claim(SOURCE, -2))
    writes(shell, owned, [4])
    assert shell.run(still_owner(owned, at)) is False


def test_late_and_repeated_records_end_no_owner() -> None:
    shell = Shell(claim=1)
    owned = owner_with(shell, sent=2)
    ours, older = Claim(SOURCE, -2, NONCE), Claim(SOURCE, 1, "theirs")
    shell.logs[PREDICTIONS] += [*answers(2, 0, 1), *answers(1, 0), older, ours]
    assert shell.run(still_owner(owned, cut(owned))) is True
    assert any(isinstance(asked, ReadLog) for asked in shell.asked)
    assert log_positions(owned, cut(owned))[-1] == LogPosition(
        *PREDICTIONS, len(shell.logs[PREDICTIONS]), 2, 2
    )
    shell.asked.clear()
    assert shell.run(still_owner(owned, cut(owned))) is True
    assert shell.asked == [FindBounds(*PREDICTIONS), Settle(*PREDICTIONS)]


@pytest.mark.parametrize("number", [-1, 1, -2, 2])
def test_a_claim_of_another_that_is_not_lower_ends_the_owner_announced_or_made(number: int) -> None:
    shell = Shell()
    owned = owner_with(shell, sent=2)
    shell.logs[PREDICTIONS].append(Claim(SOURCE, number))
    assert shell.run(still_owner(owned, cut(owned))) is False


def saved_by(shell: Shell, owned: Takeover) -> tuple[LogPosition, ...]:
    """Let the owner save all that it has done; return the log positions of its checkpoint."""
    shell.checkpoint = Saved(log_positions(owned, cut(owned)))
    return shell.checkpoint.logs


def test_a_partition_that_comes_back_is_kept_by_one_look_at_store_and_log() -> None:
    shell = Shell()
    owned = owner_with(shell, sent=3)
    shell.claim, saved = owned.claim, saved_by(shell, owned)
    shell.asked.clear()
    assert shell.run(keeps(owned, saved)) is True
    assert shell.asked == [Look(), FindBounds(*PREDICTIONS), Settle(*PREDICTIONS)]


def fenced(shell: Shell, _: Takeover) -> None:
    shell.claim += 1


def saved_by_another(shell: Shell, owned: Takeover) -> None:
    shell.checkpoint = Saved((LogPosition(*PREDICTIONS, 9, owned.claim, 9),))


def emptied(shell: Shell, _: Takeover) -> None:
    shell.claim, shell.checkpoint = 0, None


def announced(shell: Shell, owned: Takeover) -> None:
    shell.logs[PREDICTIONS].append(Claim(SOURCE, -owned.claim - 1, "theirs"))


def claimed_the_same(shell: Shell, owned: Takeover) -> None:
    shell.logs[PREDICTIONS].append(Claim(SOURCE, owned.claim, "theirs"))


@pytest.mark.parametrize("meanwhile", [fenced, saved_by_another, emptied, announced, claimed_the_same])
def test_a_partition_that_had_another_owner_or_another_store_is_not_kept(meanwhile: Any) -> None:
    shell = Shell()
    owned = owner_with(shell, sent=3)
    shell.claim, saved = owned.claim, saved_by(shell, owned)
    meanwhile(shell, owned)
    assert shell.run(keeps(owned, saved)) is False


def test_a_checkpoint_keeps_the_old_positions_until_nothing_is_suppressed() -> None:
    old = (LogPosition("examples", 0, 1, 1, 0), LogPosition(*PREDICTIONS, 1, 1, 0))
    shell = Shell(claim=1, checkpoint=Saved(old))
    shell.logs[PREDICTIONS] = [Claim(SOURCE, 1), *answers(1, 0)]
    shell.logs["examples", 0] = [Claim(SOURCE, 1)]
    owned = shell.take_over()
    before = cut(owned)
    assert owned.suppression.answered("e0", 0)
    assert log_positions(owned, before) == old
    assert log_positions(owned, cut(owned)) == (
        LogPosition("examples", 0, 2, 2, 0),
        LogPosition(*PREDICTIONS, 4, 2, 0),
    )
