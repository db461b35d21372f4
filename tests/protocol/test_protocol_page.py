"""docs/protocol.md and the code say the same."""

import re

from node.protocol import disclosure_checks, limits, transcript_checks
from node.protocol.fields import Kind, ListOf, Maybe, Nested, SignedOf, schema
from node.protocol.transcript_verify import verify
from tests.protocol import protocol_tables
from tests.protocol import sample_job as job
from tests.vectors import make

TEXT = protocol_tables.PAGE.read_text(encoding="utf-8")


def test_every_table_is_on_the_page_once() -> None:
    found = [match[2] for match in protocol_tables.MARK.finditer(TEXT)]
    assert sorted(found) == sorted(protocol_tables.names())


def test_the_tables_are_what_the_classes_say() -> None:
    assert protocol_tables.filled(TEXT) == TEXT, "run scripts/make-protocol-tables"


def anchor(heading: str) -> str:
    """How GitHub names a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_links_lead_somewhere() -> None:
    anchors = {anchor(match[1]) for match in re.finditer(r"^#+ (.+)$", TEXT, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert links - anchors == set()
    assert len(links) > 50


def test_every_check_is_described_in_the_order_of_the_report() -> None:
    described = re.findall(r"^\| (\w+) \|", TEXT[TEXT.index("### Checks") :], re.MULTILINE)
    names = ["encoding"]
    names += [name for name, _ in transcript_checks.CHECKS]
    names += [name for name, _ in disclosure_checks.CHECKS]
    assert described[1 : len(names) + 1] == names
    report = verify(job.finished_job().file(), job.finished_job().disclosure())
    assert [check.name for check in report.checks] == names


def test_the_vectors_are_listed() -> None:
    listed = set(re.findall(r"^\| ([\w-]+\.json) \|", TEXT, re.MULTILINE))
    assert listed - {"sampling.json"} == set(make.FILES)


def depth(kind: Kind) -> int:
    match kind:
        case ListOf():
            return 1 + depth(kind.item)
        case Maybe():
            return depth(kind.item)
        case SignedOf():
            return 1 + depth_of(kind.cls)
        case Nested():
            return depth_of(kind.cls)
        case _:
            return 0


def depth_of(cls: type) -> int:
    return 1 + max(depth(field.kind) for field in schema(cls))


def test_messages_stay_below_the_limits_of_depth_and_length() -> None:
    for cls in protocol_tables.STRUCTS:
        assert depth_of(cls) <= limits.DEPTH_MAX
        for field in schema(cls):
            if isinstance(field.kind, ListOf):
                assert field.kind.count_max <= limits.ARRAY_MAX


def test_a_broken_page_would_be_noticed() -> None:
    broken = TEXT.replace("| 4 | escrow | address |", "| 4 | escrow | hash |")
    assert broken != TEXT
    assert protocol_tables.filled(broken) == TEXT
