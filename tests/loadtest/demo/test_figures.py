"""What the demo counts beside the ledger: losses of what was served, the delay of labels."""

from __future__ import annotations

import pytest

from engine.offline.publish import FileLine
from loadtest.bench.ledger import Ledger
from loadtest.demo.figures import Figures, ServedAnswer


def figures_of(**truth: bool) -> Figures:
    figures = Figures(Ledger("flights"), truth, dict.fromkeys(truth, 1_000))
    for event_id in truth:
        figures.sent(FileLine(False, 1_000, event_id, b"JFK", b""), 1.0)
    return figures


def answer(figures: Figures, event_id: str, model: str, score: float | None) -> None:
    figures.answered(ServedAnswer(f"flights:{event_id}", event_id, 1_000, model, score), b"JFK", 0, 2.0)


def test_the_loss_of_what_was_served_is_kept_by_model() -> None:
    figures = figures_of(a=True, b=False)
    answer(figures, "a", "tree", 0.5)
    assert (figures.ledger.waiting, figures.first_answer_s) == (1, 2.0)
    answer(figures, "b", "linear", 0.1)
    assert figures.ledger.complaint() is None
    assert figures.served["tree"].get() == 0.25
    assert figures.served["linear"].get() == pytest.approx(0.01)


def test_only_the_first_answer_to_an_event_has_a_loss() -> None:
    figures = figures_of(a=True)
    for event_id, score in (("a", None), ("a", 0.5), ("ghost", 0.5)):
        answer(figures, event_id, "tree", score)
    assert figures.answers == 3
    assert not figures.served, "no opinion is no loss"


def test_an_answer_that_lies_elsewhere_is_a_complaint() -> None:
    figures = figures_of(a=True)
    figures.answered(ServedAnswer("flights:a", "a", 1_000, "tree", 0.5), b"LGA", 0, 2.0)
    assert "1 predictions that do not fit their events" in (figures.ledger.complaint() or "")


def test_label_delay_is_the_median_on_the_samples_clock() -> None:
    figures = figures_of(a=True)
    assert figures.label_delay_ms is None
    for delay in (1, 5, 100):
        figures.sent(FileLine(True, 1_000 + delay, "a", b"JFK", b""), 3.0)
    assert (figures.label_delay_ms, figures.simulated_ms) == (5, 1_100)
