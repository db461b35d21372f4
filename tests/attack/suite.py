"""The attacks, in the order of the table; numbers are those of the table."""

from tests.attack.a01_malformed_frames import MalformedFrames
from tests.attack.a03_msgpack_bombs import MsgpackBombs
from tests.attack.a04_yamux_floods import YamuxFloods
from tests.attack.a05_half_open import HalfOpen
from tests.attack.a06_segments import Segments
from tests.attack.a07_sybils import Sybils
from tests.attack.a09_replay import Replay
from tests.attack.a10_client_cut import ClientCut
from tests.attack.a11_worker_cut import WorkerCut
from tests.attack.a12_one_deposit import OneDeposit
from tests.attack.a13_withdrawal import Withdrawal
from tests.attack.a14_same_voucher import SameVoucher
from tests.attack.a20_canary import Canary
from tests.attack.harness import Attack

ATTACKS: tuple[Attack, ...] = (
    MalformedFrames(),
    MsgpackBombs(),
    YamuxFloods(),
    HalfOpen(),
    Segments(),
    Sybils(),
    Replay(),
    ClientCut(),
    WorkerCut(),
    OneDeposit(),
    Withdrawal(),
    SameVoucher(),
    Canary(),
)
