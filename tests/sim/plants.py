"""Planted bugs: what the simulator has to find."""

from tests.sim.disk import DiskWriter


class Plant:
    """None: the code as it is."""

    name = ""
    writer: type[DiskWriter] = DiskWriter


PLANTS: dict[str, type[Plant]] = {}
