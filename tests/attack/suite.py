"""The attacks, in the order of the table; numbers are those of the table."""

from tests.attack.a01_malformed_frames import MalformedFrames
from tests.attack.harness import Attack

ATTACKS: tuple[Attack, ...] = (MalformedFrames(),)
