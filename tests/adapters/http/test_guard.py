"""Who is let in, and what others are told."""

from collections.abc import Iterator

import pytest
import structlog
import trio
from trio.testing import MockClock

from node.adapters.http.body import BODY_S
from node.adapters.http.port import Customer
from node.app import logs
from tests.adapters.http.world import BODY_BYTES_MAX, QUESTION, Reply, World, world

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8411", 200),
        ("127.0.0.1:8411", 200),
        ("[::1]:8411", 200),
        ("192.168.1.5", 200),
        ("gateway.example", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8411", 403),
        ("", 403),
    ],
)
async def test_the_host_must_be_one_that_nobody_else_can_point_here(
    clock: MockClock, w: World, host: str, status: int
) -> None:
    reply = await w.ask(CHAT, QUESTION, headers={"host": host})
    assert reply.status == status
    if status != 200:
        assert reply.error["code"] == "host_not_allowed"
        assert not w.desk.asks


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:8411"])
async def test_a_page_of_another_origin_is_turned_away(
    clock: MockClock, w: World, origin: str
) -> None:
    reply = await w.ask(CHAT, QUESTION, headers={"origin": origin})
    assert (reply.status, reply.error["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in reply.headers
    assert not w.desk.asks


async def test_a_page_that_was_allowed_by_name(clock: MockClock, w: World) -> None:
    origin = {"origin": "https://chat.example"}
    reply = await w.ask(CHAT, QUESTION, headers=origin)
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "https://chat.example"
    before = await w.ask(CHAT, None, method="OPTIONS", headers=origin, body=[])
    assert before.status == 204
    assert before.headers["access-control-allow-origin"] == "https://chat.example"


async def test_a_form_of_a_web_page_is_no_request(clock: MockClock, w: World) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        reply = await w.ask(CHAT, QUESTION, headers={"content-type": kind})
        assert reply.status == 415
    assert not w.desk.asks


@pytest.mark.parametrize("given", ["", "Bearer wrong", "Basic s3cret", "s3cret", "Bearer s3cret x"])
async def test_a_key_is_asked_for_once_there_is_one(
    clock: MockClock, nursery: trio.Nursery, given: str
) -> None:
    w = await world(nursery, keys="s3cret")
    headers = {"authorization": given} if given else {}
    for path, method in ((CHAT, "POST"), ("/v1/models", "GET"), ("/nothing", "GET")):
        reply = await w.ask(path, QUESTION, headers=headers, method=method)
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
    assert not w.desk.asks
    assert (await w.ask("/healthz", method="GET")).status == 200


async def test_the_key_says_who_pays(clock: MockClock, nursery: trio.Nursery) -> None:
    w = await world(nursery, keys="s3cret")
    reply = await w.ask(CHAT, QUESTION, headers={"authorization": "bearer s3cret"})
    assert reply.status == 200
    assert w.desk.customers == [Customer(key_id="k1")]


async def test_a_body_that_says_it_is_too_long_is_not_read(clock: MockClock, w: World) -> None:
    length = {"content-length": str(64 * 1024 * 1024)}
    reply = await w.ask(CHAT, None, headers=length, body=[b"x"] * 3)
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")


async def test_a_body_that_is_too_long_is_not_kept(clock: MockClock, w: World) -> None:
    reply = await w.ask(CHAT, None, body=[b" " * 1024] * (BODY_BYTES_MAX // 1024 + 5))
    assert reply.status == 413
    assert not w.desk.asks


async def test_long_headers_are_refused(w: World) -> None:
    for headers in ({"x-long": "x" * 20_000}, {f"x-{n}": "y" * 100 for n in range(200)}):
        reply = await w.ask("/v1/chat/completions", QUESTION, headers=headers)
        assert (reply.status, reply.error["code"]) == (431, "headers_too_large")
    assert not w.desk.asks


async def test_a_slow_body_is_given_up(clock: MockClock, w: World) -> None:
    replies: list[Reply] = []
    receive_s = BODY_S + 5

    async def slow() -> dict[str, object]:
        await trio.sleep(receive_s)
        return {"type": "http.disconnect"}

    reply = Reply()

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            status = message["status"]
            assert isinstance(status, int)
            reply.status = status
            replies.append(reply)

    scope = {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "state": {},
    }
    await w.guard(scope, slow, send)  # type: ignore[arg-type]
    assert [each.status for each in replies] == [408]


async def test_no_more_requests_at_once_than_there_is_room_for(
    clock: MockClock, nursery: trio.Nursery
) -> None:
    w = await world(nursery, requests_max=2)
    statuses: list[int] = []

    async def ask() -> None:
        reply = await w.chat()
        statuses.append(reply.status)

    async with trio.open_nursery() as inner:
        for _ in range(5):
            inner.start_soon(ask)
    assert sorted(statuses) == [200, 200, 503, 503, 503]
    assert (await w.chat()).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/models/none", 404),
        ("GET", "/v1/generation", 400),
    ],
)
async def test_what_is_not_there(
    clock: MockClock, w: World, method: str, path: str, status: int
) -> None:
    reply = await w.ask(path, {"model": "m", "input": "x"}, method=method)
    assert reply.status == status
    assert reply.error["message"]


async def test_what_can_be_looked_up(clock: MockClock, w: World) -> None:
    models = await w.ask("/v1/models", method="GET")
    assert models.json == {"object": "list", "data": [{"id": "org/m", "x_model_id": "0x00"}]}
    assert (await w.ask("/v1/models/org/m", method="GET")).json["id"] == "org/m"
    found = await w.ask("/v1/models/org/m/endpoints", method="GET")
    assert found.json["data"]["id"] == "org/m"
    job = "ab" * 16
    for prefix in ("", "chatcmpl-", "cmpl-", "gen-"):
        reply = await w.ask("/v1/generation", method="GET", query=f"id={prefix}{job}")
        assert reply.json["data"] == {"id": job}


@pytest.fixture
def logged() -> Iterator[None]:
    """Log as the commands do."""
    logs.configure("info")
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("logged")
async def test_a_bug_tells_nothing(
    clock: MockClock, w: World, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info")
    w.desk.script.finish = object()  # JSON has nothing for it
    asked = {"model": "m", "messages": [{"role": "user", "content": "canary"}]}
    reply = await w.ask(CHAT, asked, headers={"authorization": "Bearer canary"})
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    printed = capsys.readouterr().err
    assert "request failed" in printed
    assert "canary" not in printed + reply.body.decode()
