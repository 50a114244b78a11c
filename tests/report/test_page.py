"""The report opens with the answer, holds the records' numbers, and needs nothing but itself."""

import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdl import report
from jaxdl.core.loading import load_file
from jaxdl.core.records import METRICS, PASSPORT, read_records, read_result
from jaxdl.report.bands import POINTS, bands, pareto
from jaxdl.report.charts import front_of
from jaxdl.report.facts import commands, passports, unplaced
from jaxdl.report.svg import Axis, span, tick

synthetic = load_file(__file__.replace("test_page", "synthetic"))
VOID = {"meta", "link", "br", "img", "hr", "input"}
NASTY = 'a<b>&"c|d`e_f'
EDITS = {"wide": {"model.widths": (64,)}, NASTY: {"optim.peak_lr": 0.1}}


class Page(HTMLParser):
    """Elements, tables as lists of rows, and whether every element is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.tables, self.text = [], [], {}, []
        self.rows, self.caption = None, ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)
        if "caption" in self.open:
            self.caption = data
        elif self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def curve(variant, seed):
    rng = np.random.default_rng([len(variant), seed])

    def values(split, step):
        loss = float(2 * np.exp(-step / 100) + rng.normal(0, 0.01))
        return {"loss": loss, "accuracy": 1 - loss / 3, "lr": 0.1}

    return values


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Cells of three variants with three seeds, one of which failed, and their report."""
    place = tmp_path_factory.mktemp("page")
    cells = []
    for i, variant in enumerate(("base", "wide", NASTY)):
        for seed in range(3):
            cell = synthetic.write_run(
                place / f"run{i}-{seed}",
                variant,
                seed,
                synthetic.both(
                    accuracy=(340 + 4 * i + seed + i * seed % 2) / 360, loss=0.3 - i / 9
                ),
                seconds=10.0 + 5 * i,
                points=600,
                curve=curve(variant, seed),
                model=synthetic.EXPERIMENT["model"] | {"widths": [16 << i]},
            )
            cells.append(cell)
            passport = json.loads((cell.run / PASSPORT).read_text())
            passport |= {"parameters": 1000 << i, "flops": 2000 << i}
            (cell.run / PASSPORT).write_text(json.dumps(passport))
    cells[-1] = report.Cell(*list(vars(cells[-1]).values())[:3], "<script>alert(1)</script>")
    study = report.study(cells, title="Does <i>it</i> help?", edits=EDITS)
    text, page = report.write_report(study, place / "out")
    return cells, study, text.read_text(), page.read_text()


@pytest.mark.row("R-027")
def test_every_number_of_the_runs_is_the_records(made):
    cells, _, text, page = made
    rows = Page(page).tables["Every run, as its result.json has it"]
    assert rows[0][:5] == ["variant", "seed", "test/accuracy", "steps", "seconds"]
    assert len(rows) == 1 + len(cells)
    for cell, row in zip(cells, rows[1:], strict=True):
        result = read_result(cell.run)
        assert row[:2] == [cell.variant, str(cell.seed)]
        assert float(row[2]) == pytest.approx(result.metrics["test"]["accuracy"], abs=5e-7)
        assert [float(x) for x in row[3:5]] == [result.steps, result.seconds]
        assert f"| {cell.seed} | {row[2]} |" in text
    means = Page(page).tables["test/accuracy (higher is better)"]
    for row in means[1:]:
        values = [
            read_result(c.run).metrics["test"]["accuracy"]
            for c in cells
            if c.variant == row[0] and not c.error
        ]
        assert int(row[1].split()[0]) == len(values)
        assert float(row[2].split()[0]) == pytest.approx(100 * np.mean(values), abs=0.05)


def test_the_page_opens_with_a_verdict_for_each_variant(made):
    _, study, text, page = made
    words = " ".join(Page(page.split("<section>")[0] + "</main></body></html>").text)
    for variant, verdict in study.verdicts.items():
        assert variant in words and verdict in words
        assert text.index(verdict) < text.index("## Numbers")
    assert "8 of 9 runs counted" in words


def test_nothing_tells_where_things_lie_on_the_machine(made):
    for said in made[2:]:
        assert "/somewhere" not in said and "OMP_NUM_THREADS 2" in said


def test_the_page_needs_nothing_else_and_runs_nothing(made):
    *_, page = made
    for tag, attributes in Page(page).seen:
        assert tag not in ("script", "iframe", "object", "img")
        assert not any(name.startswith("on") or name == "src" for name in attributes)
        assert tag != "link" or attributes["href"] == "data:,"
        assert "http" not in json.dumps(attributes)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "Does &lt;i&gt;it&lt;/i&gt; help?" in page


def test_tables_and_pictures_are_told_to_those_who_do_not_see_them(made):
    *_, page = made
    seen = Page(page).seen
    assert sum(tag == "caption" for tag, _ in seen) == sum(tag == "table" for tag, _ in seen) > 5
    assert all("scope" in attributes for tag, attributes in seen if tag == "th")
    pictures = [a for tag, a in seen if tag == "svg" and "aria-hidden" not in a]
    assert len(pictures) >= 6 and all(a["role"] == "img" for a in pictures)
    named = [name for a in pictures for name in a["aria-labelledby"].split()]
    ids = [a["id"] for _, a in seen if "id" in a]
    assert set(named) < set(ids) and len(ids) == len(set(ids))


def test_markdown_survives_what_a_name_may_hold(made):
    _, _, text, _ = made
    for line in text.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert cells[0] == cells[-1] == ""
    widths = [
        {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines() if line.startswith("|")}
        for block in text.split("\n\n")
    ]
    assert all(len(width) <= 1 for width in widths)


def test_the_same_study_gives_the_same_bytes(made, tmp_path):
    cells, study, text, page = made
    again = report.study(cells, title=study.title, edits=EDITS)
    found = report.write_report(again, tmp_path)
    assert [path.read_text() for path in found] == [text, page]


def test_what_was_changed_is_told_as_edits_and_as_resolved(made):
    tables = Page(made[3]).tables
    assert ["wide", "model.widths", "(64,)"] in tables["Edits of the experiment file"]
    changed = tables["How the resolved configurations differ from base"]
    assert ["wide", "model.widths.0", "16", "32"] in changed
    shared = tables["What the runs were made of"]
    assert ["versions", "jax 0.10.2, numpy 2.1", "all"] in shared


def test_of_many_packages_the_ones_that_matter_and_all_that_differ_are_listed(tmp_path):
    cells = []
    for seed in range(2):
        cell = synthetic.write_run(tmp_path / str(seed), "base", seed, synthetic.both(loss=1.0))
        passport = json.loads((cell.run / PASSPORT).read_text())
        passport["versions"] = {f"a{i}": "1" for i in range(99)} | {"jax": "2", "zz": str(seed)}
        (cell.run / PASSPORT).write_text(json.dumps(passport))
        cells.append(cell)
    rows = list(passports(report.study(cells, title="t")))
    (versions,) = (value for what, value, _ in rows if what == "versions")
    assert versions.startswith("jax 2, a0 1") and versions.endswith(" and 84 more")
    assert ("versions.zz", "1", "base (seed 1)") in rows


def test_curves_are_the_means_of_the_records(made):
    cells, study, _, _ = made
    found, damaged = bands(study)
    assert damaged == [] and list(found)[:2] == ["valid/accuracy", "train/accuracy"]
    assert "train/lr" not in found
    mine = [c for c in cells if c.variant == "base"]
    read = [[r.values["loss"] for r in read_records(c.run) if r.split == "train"] for c in mine]
    band = found["train/loss"]["base"]
    assert len(band.steps) == POINTS and band.steps[0] == 2 and band.steps[-1] == 599
    binned = np.array(read).reshape(3, POINTS, 3).mean(2)
    np.testing.assert_allclose(band.mean, binned.mean(0), rtol=1e-9)
    np.testing.assert_allclose(band.low, binned.min(0), rtol=1e-9)
    np.testing.assert_allclose(band.high, binned.max(0), rtol=1e-9)


def test_few_points_are_drawn_as_they_are_and_gaps_stay_gaps(tmp_path):
    def holes(split, step):
        return {"loss": float("nan") if step == 2 else float(step)}

    cells = [
        synthetic.write_run(
            tmp_path / str(s), "base", s, synthetic.both(loss=1.0), points=3 + s, curve=holes
        )
        for s in range(2)
    ]
    band = bands(report.study(cells, title="t"))[0]["train/loss"]["base"]
    assert band.steps.tolist() == [1, 3, 4] and band.mean.tolist() == [1, 3, 4]
    _, page = report.write_report(report.study(cells, title="t"), tmp_path / "out")
    assert "nan" not in page.read_text().lower()


@pytest.mark.parametrize("damage", [b"{broken\n", b"\xff\n", b"[1]\n", b'{"values": 3}\n'])
def test_damaged_records_are_named_and_the_others_drawn(tmp_path, damage):
    cells = [
        synthetic.write_run(tmp_path / str(s), "base", s, synthetic.both(loss=1.0), points=3)
        for s in range(2)
    ]
    with (cells[0].run / METRICS).open("ab") as lines:
        lines.write(damage)
    text, page = report.write_report(report.study(cells, title="t"), tmp_path / "out")
    for told in (text.read_text(), page.read_text()):
        assert "counted, but its curves are not drawn: metrics.jsonl is damaged" in told
        assert str(tmp_path) not in told
    assert 'class="line' in page.read_text()


def test_places_are_hidden_and_what_differs_is_not(tmp_path):
    def passport_with(seed, **fields):
        cell = synthetic.write_run(tmp_path / str(seed), "base", seed, synthetic.both(loss=1.0))
        passport = json.loads((cell.run / PASSPORT).read_text())
        (cell.run / PASSPORT).write_text(json.dumps(passport | fields))
        return cell

    flags = [
        {"PYTHONPATH": "/home/a/lib", "XLA_FLAGS": "--xla_dump_to=/tmp/a --xla_x=1"},
        {"PYTHONPATH": "/home/b/lib", "XLA_FLAGS": "--xla_dump_to=/tmp/a --xla_x=2"},
    ]
    code = [{"file": "a" * 12 + "0" * 4}, {"file": "a" * 12 + "1" * 4}]
    command = "/home/a/bin/jaxdl train '/home/a b/exp.py:x' --run-dir=/home/a/r --set data=~/x a/b"
    cells = [passport_with(i, flags=flags[i], code=code[i], command=command) for i in range(2)]
    found = report.study(cells, title="t")
    rows = list(passports(found))
    for row in (
        ("flags.PYTHONPATH", "(a place) #1", "base (seed 0)"),
        ("flags.PYTHONPATH", "(a place) #2", "base (seed 1)"),
        ("flags.XLA_FLAGS", "--xla_dump_to=(a place) --xla_x=2", "base (seed 1)"),
        ("code.file", "a" * 12 + " #2", "base (seed 1)"),
    ):
        assert row in rows
    told = "jaxdl train .../exp.py:x --run-dir=(a place) --set data=(a place) a/b"
    assert list(commands(found)) == [("base", told)]
    assert (
        unplaced("gs://bucket/x a/b 1/2 file:///home/a/t.npy") == "gs://bucket/x a/b 1/2 .../t.npy"
    )


def test_what_is_folded_away_can_be_opened_on_paper_where_it_is_not_printed(made):
    """Only where a style can open what is folded may its handle be hidden."""
    style = made[3].split("<style>")[1].split("</style>")[0]
    before, hidden, _ = style.partition("summary { display: none; }")
    guard = before.rpartition("@supports selector(details::details-content) {")[2]
    assert hidden and guard != before and guard.count("{") == guard.count("}")


@pytest.mark.row("R-026")
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_pareto_front_is_that_of_brute_force(points):
    named = {str(i): (float(c), float(q)) for i, (c, q) in enumerate(points)}

    def beaten(a):
        return any(b[0] <= a[0] and b[1] >= a[1] and b != a for b in named.values())

    assert set(pareto(named)) == {name for name, point in named.items() if not beaten(point)}
    costs = [named[name][0] for name in pareto(named)]
    assert costs == sorted(costs)


@pytest.mark.row("R-026")
def test_cost_against_quality_is_drawn_and_its_front_marked(made):
    _, study, _, page = made
    assert front_of(study, "seconds") == ("base", "wide", NASTY)
    table = Page(page).tables["Means over seeds"]
    assert table[0][2] == "training time, s" and table[1][2] == "10 *"
    assert 'class="front' in page and 'id="cost-seconds-t"' in page
    assert table[0][3:] == ["parameters", "training FLOPs"]
    assert table[1][3:] == ["1,000 *", "200,000 *"]


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 1, 0, 100), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Axis(93.2, 97.9, 0, 1), [94, 95, 96, 97]),
        (Axis(-3e-5, 2e-5, 0, 1), [-3e-5, -2e-5, -1e-5, 0, 1e-5, 2e-5]),
        (Axis(0.9, 2000, 0, 1, log=True), [1, 10, 100, 1000]),
        (Axis(20, 25, 0, 1, log=True), [20, 21, 22, 23, 24, 25]),
    ],
)
def test_ticks_are_round_and_inside(axis, ticks):
    assert axis.ticks() == pytest.approx(ticks, abs=1e-12)
    assert axis.at(axis.low) == axis.start and axis.at(axis.high) == axis.end


def test_axes_have_room_whatever_is_shown():
    for values in ([], [0.0], [5.0, 5.0], [1.0, float("nan")], [-1.0, 1.0]):
        low, high = span(values)
        assert low < high
    assert span([0, 10], room=0) == (0, 10)
    assert (
        tick(1_500_000) == "1.5M" and tick(-0.25) == "\N{MINUS SIGN}0.25" and tick(4000) == "4000"
    )


@pytest.mark.slow
def test_fifty_runs_of_ten_thousand_steps_take_seconds_and_megabytes(tmp_path):
    cells = [
        synthetic.write_run(
            tmp_path / f"{v}-{s}",
            f"variant_{v}" if v else "base",
            s,
            synthetic.both(accuracy=0.9 + 0.001 * ((7 * v + 3 * s) % 11), loss=0.3),
            points=10_000,
            curve=curve(f"v{v}", s),
        )
        for v in range(10)
        for s in range(5)
    ]
    start = time.process_time()
    study = report.study(cells, title="fifty")
    _, page = report.write_report(study, tmp_path / "out")
    seconds, size = time.process_time() - start, page.stat().st_size / 1e6
    print(f"{seconds:.1f} s of CPU, {size:.2f} MB")
    assert seconds < 20 and size < 5
