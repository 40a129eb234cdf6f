"""`targets`: the table, and the same as JSON."""

import json

from internvl_edge.commands.targets import targets
from tests.unit.commands.conftest import Invoke


def test_the_table_and_the_json_name_the_same_devices(invoke: Invoke) -> None:
    table = invoke(targets).stdout.split("\n\n")[0].splitlines()[1:]
    rows = json.loads(invoke(targets, "--json").stdout)
    assert [line.split()[:2] for line in table] == [[row["name"], str(row["sm"])] for row in rows]
    orin = next(row for row in rows if row["name"] == "agx-orin-64gb")
    assert (orin["sm"], orin["memory_gib"], orin["built_here"]) == (87, 64, None)
