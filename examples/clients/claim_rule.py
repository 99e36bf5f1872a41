"""Which records of a predictions topic are answers: the rule of claims, whole."""

_held: dict[int, tuple[int, float]] = {}
"""By partition: the highest claim so far, and the sequence number that comes next."""


def counts(partition: int, value: dict, is_claim: bool) -> bool:
    """Say whether a record counts.  Call it for every record of a partition, from the log's first one on."""
    claim, following = _held.get(partition, (0, 0))
    if is_claim:  # a worker has taken the partition over
        _held[partition] = (value["claim"], 0) if value["claim"] > claim else (claim, following)
    elif value["claim"] == claim and value["sequence"] > following:
        _held[partition] = (claim, float("inf"))  # one is missing: the rest of this claim does not count
    elif value["claim"] == claim > 0 and value["sequence"] == following:
        _held[partition] = (claim, following + 1)
        return True
    return False  # a claim, a repeat, or of a worker that was replaced
