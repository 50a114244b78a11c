"""A study written as Markdown and as one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

import jinja2

from jaxdl.report.comparison import Study
from jaxdl.report.document import Section, Table, document, opening

HERE = Path(__file__).parent


def write_report(study: Study, folder: Path) -> tuple[Path, Path]:
    """Writes report.md and report.html into `folder`; the same study gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = document(study)
    text, page = folder / "report.md", folder / "report.html"
    text.write_text(markdown(study, sections), encoding="utf-8")
    page.write_text(html(study, sections), encoding="utf-8")
    return text, page


def html(study: Study, sections: list[Section]) -> str:
    """The page: verdicts first, then the sections."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(
        study=study,
        sections=sections,
        opening=opening(study),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
    )


def markdown(study: Study, sections: list[Section]) -> str:
    """The same without pictures."""
    lines = [f"# {_plain(study.title)}", "", _plain(opening(study)), ""]
    lines += [f"* **{_plain(v)}**: {_plain(told)}" for v, told in study.verdicts.items()]
    lines += [""] * bool(study.verdicts) + [f"> {_plain(note)}  " for note in study.notes]
    lines += [""] * bool(study.notes)
    for section in sections:
        if not section.tables and section.pictures:
            continue
        lines += [f"## {section.title}", ""]
        for text in section.text:
            lines += [_plain(text), ""]
        for table in section.tables:
            lines += [*_markdown_table(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(table: Table) -> list[str]:
    ends = ["--:" if table.is_number(i) else ":--" for i in range(len(table.head))]
    rows = (table.head, ends, *table.rows)
    return [
        f"**{_plain(table.caption)}**",
        "",
        *("| " + " | ".join(c if row is ends else _plain(c) for c in row) + " |" for row in rows),
    ]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(text.split())
    for sign in "\\`*|<[":
        text = text.replace(sign, "\\" + sign)
    return text
