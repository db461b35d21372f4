"""Which memory is gathered in huge pages."""

from node.adapters.onnx import huge_pages

MAPS = """\
00400000-00c00000 r-xp 00000000 fe:00 1234 /usr/bin/python3
00c00000-01400000 rw-p 00800000 fe:00 1234 /usr/bin/python3
02100000-02900000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000600000 rw-p 00000000 00:00 0
7f0000700000-7f0000800000 rw-p 00000000 00:00 0
7f0000800000-7f0001000000 ---p 00000000 00:00 0
7ffc00000000-7ffc00800000 rw-p 00000000 00:00 0 [stack]
"""


def test_whole_huge_pages_of_memory_of_our_own() -> None:
    assert list(huge_pages.ranges(MAPS)) == [
        (0x02200000, 0x02800000),
        (0x7F0000000000, 0x7F0000600000),
    ]


def test_memory_stays_what_it_was() -> None:
    block = bytearray(range(256)) * (4 * huge_pages.HUGE // 256)
    before = bytes(block)
    huge_pages.collapse()
    assert block == before
