"""Every command of README.md runs as it is written there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What prepares the environment that the tests already run in.
SKIPPED = r"(make|git|pip|source|\.|python3? -m (venv|pip))(\s|$)"
OURS = ("build", "runs", "experiments")
MINUTES = 5


def commands(markdown: str) -> list[tuple[str, int]]:
    """Command lines of the shell fences with the exit code each announces (`# exit 2`)."""
    found = []
    for language, block in re.findall(r"^```(sh|bash|console)\n(.*?)^```", markdown, re.M | re.S):
        lines = block.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in filter(None, map(str.strip, lines)):
            if not line.startswith("#") and not re.match(SKIPPED, line):
                code = re.search(r"#\s*exit (\d+)\b", line)
                found.append((line, int(code[1]) if code else 0))
    return found


def checkout(folder: Path) -> Path:
    """A stand-in for the repository root: commands may write into it and its experiments/."""
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    for entry in ROOT.iterdir():
        if entry.name not in OURS and not entry.name.startswith("."):
            (folder / entry.name).symlink_to(entry)
    return folder


def reader_environment() -> dict[str, str]:
    """What a reader has: our venv on PATH, no setting of the suite but its compilation cache."""
    ours = ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    return env | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}


def test_every_command_of_the_readme(tmp_path):
    found = commands((ROOT / "README.md").read_text())
    assert found, "README.md shows no command"
    folder, env = checkout(tmp_path), reader_environment()
    for command, code in found:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=60 * MINUTES,
        )
        said = (done.stdout + done.stderr)[-4000:]
        assert done.returncode == code, f"{command}\nexit {done.returncode}, not {code}\n{said}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```sh\nmake test\ngit status\n. .venv/bin/activate\npip install x\n```", []),
        ("```sh\n# a comment\njaxdl train a.py\n```", [("jaxdl train a.py", 0)]),
        ("```sh\njaxdl a \\\n  --b  # exit 2\n```", [("jaxdl a    --b  # exit 2", 2)]),
        ("```console\n$ jaxdl --help\nusage: ...\n```", [("jaxdl --help", 0)]),
        ("```python\nimport jaxdl\n```\n```\nplain\n```", []),
        ("```bash\nmakeup\n```\ntext\n```sh\nls\n```", [("makeup", 0), ("ls", 0)]),
    ],
)
def test_commands_are_read_from_shell_fences(text, expected):
    assert commands(text + "\n") == expected


def test_the_example_of_an_own_file_trains_and_its_edits_are_noticed(tmp_path, monkeypatch, capsys):
    from jaxdl.cli import main

    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (example,) = [block for block in blocks if "class Wine" in block]
    monkeypatch.chdir(tmp_path)
    Path("wine.py").write_text(example)
    command = ["train", "wine.py", "--run-dir", "r"]
    assert main([*command, "--set", "mesh.data=8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["metrics"]["test"]["accuracy"] >= 0.9
    Path("wine.py").write_text(example.replace("relu", "tanh"))
    assert main([*command, "--set", "mesh.data=8"]) == 0
    assert "the code (file) has changed" in capsys.readouterr().err
    assert main([*command, "--set", "mesh.data=8", "--set", "steps=110"]) == 0
    assert "was trained for steps=100" in capsys.readouterr().err
