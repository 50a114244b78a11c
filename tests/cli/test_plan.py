"""`jaxdl plan`: what it prints and refuses."""

import json
import re


def test_json_has_the_plan_and_every_row_of_the_audit(jaxdl, place):
    told = jaxdl("plan", "exp.py", "--on", "cpu:8", "--audit", "--json")
    rows = [json.loads(line) for line in told.out.splitlines()]
    tables = [row["table"] for row in rows]
    assert told.code == 0 and tables[0] == "plan"
    assert {"parameter", "traffic", "collective"} <= set(tables)
    assert rows[0]["devices"] == 8 and rows[0]["fits"] is None and rows[0]["memory"]["peak"] > 0


def test_the_tables_name_parameters_axes_and_lines(jaxdl, place):
    told = jaxdl("plan", "exp.py", "--on", "cpu:8", "--audit")
    assert told.code == 0
    for words in ("hidden_0/kernel", "data=8", "all-reduce", "1.00", "in the host's memory"):
        assert words in told.out
    # Of gradients that are summed together the compiler names one.
    assert re.search(r"(models|losses|metrics)/\w+\.py:\d+", told.out)


def test_unknown_hardware_is_bad_input(jaxdl, place):
    told = jaxdl("plan", "exp.py", "--on", "v9:4")
    assert told.code == 2 and "no hardware is called 'v9'" in told.err
