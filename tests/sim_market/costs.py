"""What messages weigh and cost: bytes from the codec itself, CPU as measured.

CPU is that of one core of a 2-core machine: constants here, so that a run is repeatable; `measure`
takes those that are our own code's again.
"""

import time
from collections.abc import Callable

from node.adapters.p2p.identity import peer_id_of_key, peer_id_text
from node.protocol import codec, signing
from node.protocol.announcements import AnnouncementBook
from node.protocol.fields import ZERO_HASH, Signed
from node.protocol.frames import Announcements, AnnouncementsWanted, Offer, Ping, Pong
from node.protocol.offers import admit
from node.protocol.statements import AnnouncedModel, Announcement, Terms, Tier

DOMAIN = signing.Domain(31337, bytes.fromhex("5f" * 20))
MODEL = b"m" * 32
NOW_MS = 1_790_000_000_000
KEY = bytes(31) + b"\7"

PACKET_BYTES = 2 * 12 + 18 + 66 + 66
"""Around each write: Yamux header and its share of window updates, Noise's length and tag, TCP and
IP with time stamps, and the acknowledgement that comes back."""
GOSSIP_WRAP_BYTES = 64 + 38 + 38 + 96 + 12
"""In a gossip message besides its data: topic, origin, key, signature, sequence number."""
MESH_DEGREE = 6
MESH_COPIES = 4.0
"""Copies of a message that a node gets, and sends: whoever hears one passes it on to its other five
mesh peers at once, of whom about one has already sent it in between."""
IHAVE_BYTES_PER_S = 6 * 60.0
"""Heartbeats' control messages, each second to six peers."""

GOSSIP_CPU_US = 12_000
"""A message, per node that hears it: 11 to 16 ms were measured with libp2p's Python GossipSub."""
GOSSIP_IDLE_CPU_US_PER_S = 1_500
"""Heartbeats of GossipSub and Kademlia's timers without any message."""
FRAME_CPU_US = 200
"""One frame through Noise, Yamux and our session, per side: 400 were measured for both."""
CONNECT_BYTES = 4_000
"""TCP, multistream, Noise, Yamux, identify, hello, both directions."""
PROVIDER_BYTES = 300
CONNECT_CPU_US = 8_000
"""A connection with its handshakes, per side: 13 to 20 ms for both."""
DHT_QUERY_CPU_US = 2_000
"""A question to a DHT peer on a stream of its own, per side: 3.5 to 4.3 ms for both."""
DHT_QUERY_BYTES = 400
VERIFY_CPU_US = 110
"""Digest and signature of an announcement or offer."""
TAKE_OFFER_CPU_US = 150
DECODE_ANNOUNCEMENT_CPU_US = 9
ENCODE_ANNOUNCEMENT_CPU_US = 3
SIGN_OFFER_CPU_US = 110
KNOWN_ANNOUNCEMENT_CPU_US = 2


def announcement() -> Signed[Announcement]:
    """A usual one: one model, one IPv4 address and its IPv6 twin."""
    peer = peer_id_text(peer_id_of_key(KEY))
    said = Announcement(
        worker=signing.address_of_key(KEY),
        payee=signing.address_of_key(KEY),
        addrs=(
            f"/ip4/203.0.113.17/tcp/4321/p2p/{peer}",
            f"/ip6/2001:db8:1234:5678:9abc:def0:1234:5678/tcp/4321/p2p/{peer}",
        ),
        models=(
            AnnouncedModel(
                model=MODEL,
                name="some-model-8b-instruct-q4",
                tier=Tier.IDS,
                price_in=100_000,
                price_out=400_000,
            ),
        ),
        region="eu-west",
        issued_ms=NOW_MS,
        ttl_s=1620,
    )
    return signing.sign(said, DOMAIN, KEY)


def offer() -> Signed[Terms]:
    worker = signing.address_of_key(KEY)
    said = Terms(
        worker=worker,
        payee=worker,
        model=MODEL,
        tier=Tier.IDS,
        tokenizer=ZERO_HASH,
        price_in=100_000,
        price_cached=25_000,
        price_out=400_000,
        splits=(),
        quantum=2_000,
        prepay=0,
        context_max=8192,
        output_max=8192,
        first_token_ms=350,
        rate_mtps=40_000,
        prefill_tps=2_000,
        slots_free=3,
        queued=0,
        region="eu-west",
        serial=123_456,
        expires_ms=NOW_MS + 15_000,
        ask=ZERO_HASH,
    )
    return signing.sign(said, DOMAIN, KEY)


ANNOUNCEMENT_BYTES = len(codec.encode_struct(announcement()))
PUSH_BYTES = len(codec.encode_frame(Announcements(items=(announcement(),)))) + PACKET_BYTES
WANTED_BYTES = (
    len(codec.encode_frame(AnnouncementsWanted(model=MODEL, count_max=64))) + PACKET_BYTES
)
OFFER_BYTES = len(codec.encode_frame(Offer(terms=offer()))) + PACKET_BYTES
PING_BYTES = len(codec.encode_frame(Ping(nonce=100_000))) + PACKET_BYTES
PONG_BYTES = len(codec.encode_frame(Pong(nonce=100_000))) + PACKET_BYTES
GOSSIP_BYTES = ANNOUNCEMENT_BYTES + GOSSIP_WRAP_BYTES + PACKET_BYTES


def reply_bytes(items: int) -> int:
    """Of an exchange's answer."""
    return 8 + PACKET_BYTES * (1 + items * ANNOUNCEMENT_BYTES // 1400) + items * ANNOUNCEMENT_BYTES


def measure() -> dict[str, float]:
    """CPU µs of our own code, here and now, beside the constants."""
    said, terms = announcement(), offer()
    data = codec.encode_struct(said)
    worker = said.statement.worker
    book = AnnouncementBook(DOMAIN)
    book.take(said, now_ms=NOW_MS)
    taken: dict[str, Callable[[], object]] = {
        "decode_announcement": lambda: codec.decode_signed(Announcement, data),
        "encode_announcement": lambda: codec.encode_struct(said),
        "verify_announcement": lambda: signing.verify(said, DOMAIN, worker),
        "known_announcement": lambda: book.take(said, now_ms=NOW_MS),
        "take_offer": lambda: admit(terms, peer=worker, domain=DOMAIN, ask=ZERO_HASH, arrived_s=0),
        "sign_offer": lambda: signing.sign(terms.statement, DOMAIN, KEY),
    }
    return {name: _cpu_us(call) for name, call in taken.items()}


def _cpu_us(call: Callable[[], object], *, times: int = 200, rounds: int = 7) -> float:
    """The fastest round: whatever else runs can only slow it."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(times):
            call()
        best = min(best, (time.process_time() - began) / times)
    return round(best * 1e6, 1)
