"""The code that runs is taken down so that it can be told apart and put back."""

import os
import subprocess

import pytest

from jaxdl.core.loading import load_file
from jaxdl.core.records import read_code
from jaxdl.train import snapshot, surroundings

GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@y")


def git(place, *args, **kwargs):
    return subprocess.run([*GIT, *args], cwd=place, check=True, capture_output=True, **kwargs)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An experiment under git, committed."""
    place = tmp_path / "repository"
    place.mkdir()
    monkeypatch.chdir(place)
    git(place, "init", "-q")
    (place / "exp.py").write_text("RATE = 1\n")
    (place / "notes.md").write_text("nothing\n")
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "x")
    return place


def test_code_is_known_by_revision_and_by_what_is_not_committed(repository):
    clean = snapshot.take("exp.py").told["here"]
    assert len(clean["revision"]) == 40 and clean["diff"] is None
    (repository / "notes.md").write_text("something\n")
    assert snapshot.take("exp.py").told["here"] == clean
    (repository / "exp.py").write_text("import new_of_it\n")
    (repository / "new_of_it.py").write_text("a = 1")
    first = snapshot.take("exp.py").told["here"]["diff"]
    (repository / "new_of_it.py").write_text("a = 2")
    second = snapshot.take("exp.py").told["here"]["diff"]
    assert len({None, first, second}) == 3


def test_the_patch_makes_a_clean_checkout_the_code_that_ran(repository, tmp_path):
    (repository / "exp.py").write_text("import empty\nRATE = 2\n# no newline at the end")
    (repository / "a new one.py").write_bytes(b"x = '\xc3\xa9'\r\n\ny = 1\n")
    (repository / "empty.py").write_text("")
    load_file("a new one.py")
    taken = snapshot.take("exp.py:variant steps=3")
    taken.keep(tmp_path, 0)
    git(tmp_path, "clone", "-q", repository, "clean")
    git(tmp_path / "clean", "apply", tmp_path / "code.patch")
    for name in ("exp.py", "a new one.py", "empty.py"):
        assert (tmp_path / "clean" / name).read_bytes() == (repository / name).read_bytes()
    code = read_code(tmp_path)
    inside = {name for name in code.files["here"] if not name.startswith("/")}
    assert inside == {"exp.py", "a new one.py", "empty.py"}  # and this test itself
    assert "jaxdl/core/records.py" in code.files["jaxdl"]
    assert any(name.startswith(("kernels/", "jaxdl/kernels/")) for name in code.files["jaxdl"])
    assert {"jax", "optax", "flax"} <= set(code.packages)


def told_of(repository):
    taken = snapshot.take("exp.py")
    return taken.told["files"], set(taken.code.files["here"]) & {"exp.py", "used.py", "beside.py"}


def test_only_code_that_runs_is_told_of(repository):
    (repository / "exp.py").write_text("def base():\n    from used import RATE\n")
    for name in ("used.py", "beside.py"):
        (repository / name).write_text("RATE = 1\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "y")
    first, names = told_of(repository)
    assert names == {"exp.py", "used.py"}
    (repository / "beside.py").write_text("RATE = 2\n")
    (repository / "trial-1.py").write_text("RATE = 3\n")
    assert told_of(repository)[0] == first
    assert b"trial-1" not in snapshot.take("exp.py").patches["code.patch"]
    (repository / "used.py").write_text("RATE = 2\n")
    assert told_of(repository)[0] != first


def test_files_of_jaxdl_that_a_run_imports_are_known(repository):
    import jaxdl.cli.why  # no training needs it, though it may be there  # noqa: F401

    code = snapshot.take("exp.py").code
    assert code.ran and set(code.ran) <= set(code.files["jaxdl"])
    assert {"jaxdl/train/fit.py", "jaxdl/train/board.py"} <= set(code.ran)  # the latter later
    assert not any(name.startswith(("jaxdl/cli/", "jaxdl/report/")) for name in code.ran)


def test_no_patch_holds_what_may_be_secret(repository):
    (repository / "exp.py").write_text("import my_credentials, plain_of_it\n")
    (repository / "notes.cfg").write_text("[a]\n")
    (repository / "app_secrets.toml").write_text("a = 1\n")
    git(repository, "add", "notes.cfg", "app_secrets.toml")
    git(repository, "commit", "-q", "-m", "y")
    (repository / "notes.cfg").write_text("[a]\nplain = 2\n")
    for name in ("app_secrets.toml", "secrets.toml", "other.toml", "my_credentials.py"):
        (repository / name).write_text("a = 'hunter2'\n")
    (repository / "plain_of_it.py").write_text("A = 1\n")
    taken = snapshot.take("exp.py")
    patch = taken.patches["code.patch"]
    assert b"hunter2" not in patch and b"plain_of_it" in patch and b"plain = 2" in patch
    assert taken.code.left_out == ("app_secrets.toml", "my_credentials.py")


def test_a_file_too_large_for_a_patch_is_left_out_alone(repository, monkeypatch, tmp_path):
    (repository / "exp.py").write_text("import a_large_one, b_small_one\n")
    (repository / "a_large_one.py").write_text("A = 1\n" * 100)
    (repository / "b_small_one.py").write_text("B = 1\n")
    monkeypatch.setattr(snapshot, "LARGEST", 300)
    taken = snapshot.take("exp.py")
    patch = taken.patches["code.patch"]
    assert b"b/b_small_one.py" in patch and b"b/a_large_one.py" not in patch
    taken.keep(tmp_path, 0)
    assert read_code(tmp_path).left_out == ("a_large_one.py",)


def test_a_folder_may_be_named_like_a_file(repository):
    (repository / "exp.py").rename(repository / "kept.py")
    (repository / "lab.py").mkdir()
    (repository / "lab.py" / "exp.py").write_text("RATE = 1\n")
    taken = snapshot.take("lab.py/exp.py:base seed=1")
    assert taken.told["file"] and "lab.py/exp.py" in taken.code.files["here"]


def test_without_a_repository_the_patch_holds_all_of_the_experiments_code(tmp_path, monkeypatch):
    folder, monkey = tmp_path / "plain", monkeypatch
    folder.mkdir()
    (folder / "exp.py").write_text("import helper_of_plain\n")
    (folder / "helper_of_plain.py").write_text("A = 1\n")
    monkey.syspath_prepend(str(folder))
    monkey.chdir(tmp_path)
    load_file("plain/exp.py")
    taken = snapshot.take("plain/exp.py")
    assert taken.told["here"] is None and len(taken.told["file"]) == 16
    taken.keep(tmp_path, 0)
    (tmp_path / "put_back").mkdir()
    env = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    git(tmp_path / "put_back", "apply", tmp_path / "code.patch", env=env)
    assert (tmp_path / "put_back" / "helper_of_plain.py").read_text() == "A = 1\n"


def test_a_later_sitting_keeps_its_own_code_only_where_it_is_another(repository, tmp_path):
    snapshot.take("exp.py").keep(tmp_path, 0)
    snapshot.take("exp.py").keep(tmp_path, 10)
    assert {p.name for p in tmp_path.glob("code*")} == {"code.json"}
    (repository / "exp.py").write_text("RATE = 2\n")
    snapshot.take("exp.py").keep(tmp_path, 20)
    assert {p.name for p in tmp_path.glob("code*")} == {
        *("code.json", "code-20.json", "code-20.patch"),
    }


READ = ("MY_SCALE", "DB_PASS", "MYSQL_PWD", "HF_PAT", "HOOK", "SLACK_WEBHOOK", "SENTRY_DSN")


def test_the_environment_that_matters_is_kept_and_secrets_are_not(tmp_path, monkeypatch):
    lines = [f"os.environ['{name}']" for name in READ]
    (tmp_path / "exp.py").write_text("import os\nA = os.getenv('OTHER')\n" + "\n".join(lines))
    plain = {"XLA_FLAGS": "--a", "OMP_NUM_THREADS": "3", "PYTHONPATH": "x"}
    hidden = {name: "hunter2" for name in READ} | {
        "OTHER": "hunter2",
        "JAXDL_TOKEN": "hunter2",
        "NVIDIA_API_KEY": "hunter2",
        "HOOK": "https://host/services?k=hunter2",
        "TF_CPP_URL": "http://me:hunter2@host",
        "UNREAD": "y",
    }
    for name, value in (plain | hidden).items():
        monkeypatch.setenv(name, value)
    found = surroundings.environment([tmp_path / "exp.py"])
    assert {k: found.get(k) for k in plain} == plain
    assert "hunter2" not in str(found)
    digests = {name for name, value in found.items() if value.startswith("digest ")}
    assert digests == {"MY_SCALE", "OTHER"} and digests == found.keys() & hidden.keys()
    monkeypatch.setenv("MY_SCALE", "3")
    assert surroundings.environment([tmp_path / "exp.py"])["MY_SCALE"] != found["MY_SCALE"]
    assert found["jax_enable_x64"] == "False"


def test_versions_are_those_that_python_imports(tmp_path, monkeypatch):
    import jax
    import orbax.checkpoint

    (tmp_path / "optax-9.9.dist-info").mkdir()
    before = surroundings.versions()
    assert before["jax"] == jax.__version__
    assert before["orbax-checkpoint"] == orbax.checkpoint.__version__
    monkeypatch.syspath_prepend(str(tmp_path))
    assert surroundings.versions() == before | {"optax": "9.9"}
