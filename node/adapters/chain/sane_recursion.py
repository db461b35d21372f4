"""Imported before web3's libraries: keeps one of them from lifting Python's recursion limit.

py_ecc sets the limit of the whole process to 100,000 when it is imported.  From then on deeply
nested input (JSON of an RPC, a chat template of a peer) ends the process in a segmentation fault,
where it should end in a RecursionError.
"""

import importlib
import sys

_usual = sys.getrecursionlimit()
importlib.import_module("py_ecc")
sys.setrecursionlimit(_usual)
