"""Which workers a client keeps sessions with: whom it lets go, whom it tries, how often.

A client sees offers of a few dozen workers only, so how good its choices are hangs on who these
are.  It exchanges the worst for one it has not tried, often while it is new and then seldom.  If
chance says so it tries a worker that nobody had heard of at once, so that a newcomer finds as many
clients as the others have, and no crowd of them; and a first job with one of these.
"""

from collections.abc import Collection, Mapping

from node.protocol.fields import Address
from node.protocol.scoring import Trust

ROTATE_FIRST_PARTS = 12
"""The first exchanges come so much faster than the later ones."""
ROTATE_AGE_PARTS = 20
"""The pause grows by a twentieth of the time since the search began."""

NEW_S = 60.0
"""For so long a worker that nobody had heard of is new, and due for a first job.  A client that has
looked around for less can't tell who is new."""
NEW_PARTS = 8
"""An eighth of the places may be kept for those that are new: a flood of them gets no more."""

Standing = tuple[int, int]
"""A worker's `Trust` and what a job with it would score, in micro."""


def worst(
    held: Mapping[Address, Standing], *, idle: frozenset[Address], new: Collection[Address] = ()
) -> Address | None:
    """Whom to let go; None if nobody is idle.

    Those that are new keep their places until they are so no more, or had their first job; as long
    as they take no more than an eighth of all.

    Failing ones first.  Else the worst score; but while fewer than half have proven themselves,
    these are kept whatever newcomers offer: offers that nobody can have cost nothing to make.

    Args:
        held: Every worker with a session, with its standing.
        idle: Those of them that may go.
        new: Those of them that are new in the market.
    """
    if NEW_PARTS * len(new) <= len(held):
        idle = idle - {worker for worker in new if held[worker][0] == Trust.NEWCOMER}
    failing = {w for w in idle if held[w][0] == Trust.FAILING}
    proven = {w for w, (trust, _) in held.items() if trust == Trust.PROVEN}
    untried = idle - proven
    few_proven = 2 * len(proven) <= len(held)
    pool = failing or (untried if few_proven and untried else idle)
    return max(pool, key=lambda worker: (held[worker][1], worker), default=None)


def rotate_pause_s(*, searching_s: float, every_s: float) -> float:
    """How long a client keeps its workers before it exchanges one.

    Args:
        searching_s: Since it first wanted the model.
        every_s: The pause of a client that has looked around for long.
    """
    return min(every_s, max(every_s / ROTATE_FIRST_PARTS, searching_s / ROTATE_AGE_PARTS))


def tries_newcomer(*, places: int, workers: int, draw: float) -> bool:
    """Whether this client is one of the few that try a worker it just heard of.

    With as many clients as workers, a newcomer gets about as many sessions as the others have.

    Args:
        places: Sessions that this client keeps.
        workers: Known to sell the model.
        draw: A random number in [0, 1).
    """
    return draw * max(workers, 1) < places
