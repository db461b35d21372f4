"""Who gets in: counts, without sockets."""

from node.adapters.p2p.admission import (
    CONNECTIONS_PER_IP_MAX,
    PENDING_MAX,
    PENDING_PER_IP_MAX,
    Admission,
    Handshake,
)


def begun(admission: Admission, ip: str) -> Handshake:
    handshake = admission.begin(ip)
    assert handshake is not None
    return handshake


async def test_handshakes_of_one_address_push_out_their_own_oldest() -> None:
    admission = Admission(connections_max=1000)
    other = begun(admission, "203.0.113.1")
    mine = [begun(admission, "203.0.113.2") for _ in range(PENDING_PER_IP_MAX + 2)]
    assert [each.scope.cancel_called for each in mine[:3]] == [True, True, False]
    assert not other.scope.cancel_called
    assert admission.refused == 2


async def test_handshakes_in_all_are_bounded() -> None:
    admission = Admission(connections_max=1000)
    all_of_them = [begun(admission, f"203.0.{index}.1") for index in range(PENDING_MAX + 1)]
    assert [each.scope.cancel_called for each in all_of_them[:2]] == [True, False]


async def test_connections_are_bounded_and_make_room_again() -> None:
    admission = Admission(connections_max=2)
    for ip in ("8.8.8.8", "8.8.4.4"):
        handshake = begun(admission, ip)
        admission.end(handshake)
        admission.end(handshake)
        admission.connected(ip)
    assert admission.begin("1.1.1.1") is None
    admission.gone("8.8.8.8")
    assert admission.begin("1.1.1.1") is not None


async def test_connections_of_one_public_address_are_bounded() -> None:
    admission = Admission(connections_max=1000)
    for ip in ("8.8.8.8", "127.0.0.1", "10.1.2.3"):
        for _ in range(CONNECTIONS_PER_IP_MAX):
            admission.end(begun(admission, ip))
            admission.connected(ip)
    assert admission.begin("8.8.8.8") is None
    assert admission.begin("8.8.4.4") is not None
    assert admission.begin("127.0.0.1") is not None
    assert admission.begin("10.1.2.3") is not None
