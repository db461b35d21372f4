"""The recursion limit is the process's: a library must not lift it."""

import subprocess
import sys

SHOW = "import sys, {0}; print(sys.getrecursionlimit())"


def limit_after(module: str) -> int:
    run = [sys.executable, "-c", SHOW.format(module)]
    return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


def test_the_library_lifts_it_and_we_do_not() -> None:
    usual = limit_after("os")
    assert limit_after("py_ecc") > usual, "the library was mended: sane_recursion can go"
    assert limit_after("node.adapters.chain.contracts") == usual
