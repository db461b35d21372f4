"""Chat text with the shipped model's files, and with files that a hostile peer might send."""

import json
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from node.adapters import model_folder
from node.adapters.text import ChatText, Message
from node.adapters.text.template import ChatTemplate
from node.errors import PeerError
from node.protocol.manifest import FileRole

FILES = model_folder.load(model_folder.shipped()).client_files()
TEXT = ChatText.of(FILES)
TALK: list[Message] = [
    {"role": "system", "content": "Be good."},
    {"role": "user", "content": " hi {{ x }} "},
    {"role": "assistant", "content": "<think>a</think>yo"},
    {"role": "user", "content": "bye"},
]
PUBLIC = Path(__file__).with_name("templates")


def with_template(template: str) -> ChatText:
    config = json.dumps({"chat_template": template}).encode()
    return ChatText.of(FILES | {FileRole.TOKENIZER_CONFIG: config})


def test_a_conversation_as_the_shipped_model_reads_it() -> None:
    assert TEXT.text(TALK[:2]) == (
        "<|start|><|system|>Be good.<|end|><|user|> hi {{ x }} <|end|><|assistant|>"
    )


def test_ids_and_back() -> None:
    ids = TEXT.render([{"role": "user", "content": "What is a voucher?"}])
    assert TEXT.decode(ids) == "What is a voucher?"
    assert max(ids) < TEXT.vocab
    assert TEXT.token(ids[0]) == "<|start|>"


def test_an_answer_to_go_on_with() -> None:
    talk: list[Message] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello there, "},
    ]
    assert TEXT.text(talk, continues=True).endswith("<|assistant|>Hello there,")


@pytest.mark.parametrize("path", sorted(PUBLIC.glob("*.jinja")), ids=lambda path: path.stem)
def test_templates_of_public_models_come_out_as_with_plain_jinja(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    wanted = plain.render(messages=TALK, bos_token="<s>", add_generation_prompt=True)
    text = ChatText(
        tokenizer=FILES[FileRole.TOKENIZER], template=source, special={"bos_token": "<s>"}
    )
    assert text.text(TALK) == wanted
    assert "bye" in wanted


CLOCK = {"type": "function", "function": {"name": "clock", "description": "", "parameters": {}}}


def test_a_template_that_knows_tools_shows_them_calls_and_results() -> None:
    source = (PUBLIC / "im-tokens-tools.jinja").read_text(encoding="utf-8")
    text = with_template(source)
    assert text.knows_tools
    talk: list[Message] = [
        {"role": "user", "content": "Time?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "c",
                    "type": "function",
                    "function": {"name": "clock", "arguments": {"a": 1}},
                }
            ],
        },
        {"role": "tool", "content": "noon", "tool_call_id": "c", "name": "clock"},
    ]
    shown = text.text(talk, tools=[CLOCK])
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    plain.policies["json.dumps_kwargs"] = {}  # as model libraries have it: in the order of keys
    wanted = plain.from_string(source).render(
        messages=talk, tools=[CLOCK], add_generation_prompt=True
    )
    assert shown == wanted
    assert '<tools>\n{"type": "function"' in shown
    assert '<tool_call>\n{"name": "clock", "arguments": {"a": 1}}\n</tool_call>' in shown
    assert "<tool_response>\nnoon\n</tool_response>" in shown


@pytest.mark.parametrize("name", ["header-tokens", "im-tokens-thinking", "inst-brackets"])
def test_calls_that_would_not_be_read_back_are_not_known(name: str) -> None:
    source = (PUBLIC / f"{name}.jinja").read_text(encoding="utf-8")
    assert not with_template(source).knows_tools
    assert not TEXT.knows_tools


def test_separate_template_file_goes_first() -> None:
    text = ChatText.of(FILES | {FileRole.CHAT_TEMPLATE: b"{{ messages[0].content }}!"})
    assert text.text(TALK) == "Be good.!"


def test_named_templates() -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    config = json.dumps({"chat_template": named}).encode()
    assert ChatText.of(FILES | {FileRole.TOKENIZER_CONFIG: config}).text(TALK) == "yes"


def test_special_tokens_as_tables() -> None:
    config = {"chat_template": "{{ bos_token }}", "bos_token": {"content": "<b>"}}
    files = FILES | {FileRole.TOKENIZER_CONFIG: json.dumps(config).encode()}
    assert ChatText.of(files).text(TALK) == "<b>"


def test_a_template_may_refuse() -> None:
    with pytest.raises(PeerError, match="refuses: roles must alternate"):
        with_template("{{ raise_exception('roles must alternate') }}").text(TALK)


def test_marked_answers_and_loop_controls() -> None:
    source = (
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
        "{% generation %}{{ m.role }};{% endgeneration %}{% endfor %}"
    )
    assert with_template(source).text(TALK) == "system;user;"


BOMBS = {
    "product": "{{ 'x' * 10**9 }}",
    "power": "{{ 10**10**10 }}",
    "nested-loops": "{% for i in range(4000000) %}{% for j in range(4000000) %}"
    "{% endfor %}{% endfor %}",
    "long-range": "{{ range(10**9) | list }}",
    "filtered-loop": "{% set r = range(4000000) %}{% for i in range(999) %}"
    "{% for j in r if false %}{% endfor %}{% endfor %}",
    "doubling": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling-sum": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling-block": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
    "doubling-list": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
    "doubling-list-shown": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "doubling-lists-compared": "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
    "hashed-tuples": "{% set n = namespace(x=1) %}{% for i in range(60) %}"
    "{% set n.x = (n.x, n.x) %}{% endfor %}{{ {'a': 1}.get(n.x) }}",
    "computed-key": "{{ {messages[0].role: 1} }}",
    "format-sign": "{{ '%999999999d' % 1 }}",
    "format-method": "{{ '{:999999999}'.format(1) }}",
    "format-item": "{{ '{:999999999}'['format'](1) }}",
    "centred": "{{ 'a'.center(10**9) }}",
    "centred-filter": "{{ 'a' | center(10**9) }}",
    "bytes-of-number": "{{ (1).to_bytes(10**9) }}",
    "replaced": "{{ 'a'.replace('', 'b' * 1000000) | replace('b', 'c' * 100000) }}",
    "joined": "{{ range(4000) | join('x' * 100000) }}",
    "searches": "{% set x = 'a' * 4000000 %}{% for i in range(9999999) %}"
    "{% if 'b' in x %}{% endif %}{% endfor %}",
    "counts": "{% set x = 'a' * 4000000 %}{% for i in range(9999999) %}"
    "{% set y = x.count('b') %}{% endfor %}",
    "literal": "{% for i in range(9999999) %}" + "a" * 200 + "{% endfor %}",
    "macro-for-ever": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro-tree": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}"
    "{{ f(99) }}",
    "recursive-loop": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "our-names": "{% macro __step() %}{% endmacro %}",
    "our-names-called": "{{ __walked(1) }}",
    "our-names-in-other-letters": "{% set ｓtep = 1 %}",
    "include": "{% include '/etc/passwd' %}",
    "deep-brackets": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "long-number": "{{ " + "9" * 9000 + " }}",
    "syntax": "{% if %}",
    "undefined": "{{ nothing.at.all }}",
    "too-long": " " * (64 * 1024 + 1),
    "constants-made-by-the-compiler": "{% for i in range(30000) %}{% set a = '"
    + "x" * 1000
    + "' | replace('x', '"
    + "y" * 2990
    + "') | list %}{% endfor %}",
    "rounded-up-to-a-billion-digits": "{{ 1 | round(1000000000, 'ceil') }}",
    "rounded-before-a-billion-digits": "{{ 1 | round(-1000000000) }}",
}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_nothing_of_a_conversation_is_left_to_the_next() -> None:
    template = ChatTemplate(
        "{{ seen }}{% set seen = text %}{% set box = namespace(text='') %}{{ box.text }}"
        "{% set box.text = text %}{% macro say(word, told=[]) %}{{ told | length }}"
        "{% set told = told + [word] %}{{ told[-1] }}{% endmacro %}{{ say(text) }}{{ seen }}"
    )
    shown = [template.render(chars=1, text=text) for text in ("secret", "mine", "mine")]
    assert shown == ["0secretsecret", "0minemine", "0minemine"]


def test_each_rendering_has_a_budget_of_its_own_and_failures_are_forgotten() -> None:
    template = ChatTemplate("{% for _ in range(count) %}{{ word }}{% endfor %}")
    most = 30_000  # more than half of what one may do
    assert len(template.render(chars=1, count=most, word="a")) == most
    with pytest.raises(PeerError, match="does too much"):
        template.render(chars=1, count=2 * most, word="a")
    for _ in range(3):
        assert len(template.render(chars=1, count=most, word="b")) == most


def test_each_rendering_pays_for_constants() -> None:
    made = "'x' | replace('x', '" + "y" * 4000 + "')"
    template = ChatTemplate("{% for _ in range(count) %}{% set a = " + made + " %}{% endfor %}ok")
    for _ in range(3):
        assert template.render(chars=1, count=500) == "ok"
        with pytest.raises(PeerError, match="does too much"):
            template.render(chars=1, count=3000)


def test_rounding() -> None:
    shown = ChatTemplate("{{ 2.345 | round(2) }} {{ 2.5 | round(method='floor') }} {{ 7 | round }}")
    assert shown.render(chars=1) == "2.35 2.0 7"


def test_threads_render_side_by_side() -> None:
    template = ChatTemplate("{% for _ in range(2000) %}{{ word }}{% endfor %}")

    def render(number: int) -> bool:
        return template.render(chars=1, word=str(number)) == str(number) * 2000

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(render, range(64)))


@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS.keys())
def test_hostile_templates_end_soon_and_small(source: str) -> None:
    before_s, before_bytes = time.process_time(), peak_bytes()
    with pytest.raises(PeerError):
        ChatTemplate(source).render(chars=100, messages=TALK)
    assert time.process_time() - before_s < 10  # about one, on a machine of its own
    assert peak_bytes() - before_bytes < 200_000_000


@pytest.mark.parametrize(
    "source",
    ["{{ ''.__class__ }}", "{{ messages.__class__.__mro__ }}", "{{ raise_exception.__globals__ }}"],
)
def test_internals_are_not_shown(source: str) -> None:
    try:
        shown = ChatTemplate(source).render(chars=100, messages=TALK)
    except PeerError:
        shown = ""
    assert shown == ""


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b'{"model":{"type":"BPE"}}', b"\xff" * 100, b"[" * 100_000]
)
def test_broken_tokenizers(data: bytes) -> None:
    with pytest.raises(PeerError, match="tokenizer"):
        ChatText.of({FileRole.TOKENIZER: data})


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (b"[]", "not a table"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"chat_template": 5}', "not text"),
    ],
)
def test_broken_configs(config: bytes, complaint: str) -> None:
    with pytest.raises(PeerError, match=complaint):
        ChatText.of(FILES | {FileRole.TOKENIZER_CONFIG: config})


def test_a_tokenizer_can_not_cut_or_pad_what_is_counted() -> None:
    document = json.loads(FILES[FileRole.TOKENIZER])
    document["truncation"] = {
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    text = ChatText.of(FILES | {FileRole.TOKENIZER: json.dumps(document).encode()})
    assert text.encode("What is a voucher?") == TEXT.encode("What is a voucher?")


def test_without_a_template() -> None:
    text = ChatText.of({FileRole.TOKENIZER: FILES[FileRole.TOKENIZER]})
    assert not text.has_template
    with pytest.raises(PeerError, match="no chat template"):
        text.text(TALK)
    with pytest.raises(PeerError, match="no tokenizer"):
        ChatText.of({})


def test_limits() -> None:
    with pytest.raises(PeerError, match="too long"):
        TEXT.encode("a" * (2 * 1024 * 1024 + 1))
    with pytest.raises(PeerError, match="too long"):
        TEXT.text([{"role": "user", "content": ""}] * 4097)


def test_ids_that_the_tokenizer_does_not_know() -> None:
    assert TEXT.decode((2**31,)) == ""
    with pytest.raises(PeerError, match="tokenizer"):
        TEXT.decode((2**64,))
