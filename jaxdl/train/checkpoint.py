"""Checkpoints: Orbax writes the arrays, a manifest with digests makes a step complete.

    checkpoints/00000200/state/              Orbax: the large arrays
    checkpoints/00000200/small.safetensors   the small ones
    checkpoints/00000200/manifest.json       shapes, metrics, sha256 of every file; written last
    checkpoints/writing-00000200/            a step not yet complete, renamed when it is

Orbax restores a flipped byte without complaint, hence the digests.

Of several processes each writes its own shards, in the background; the first makes the step
complete once all have written. Saving, waiting, restoring and loading are for all of them together.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from jaxdl import parallel
from jaxdl.core import tree
from jaxdl.core.errors import InputError
from jaxdl.core.records import SCHEMA
from jaxdl.train import leaves
from jaxdl.train.state import State

log = logging.getLogger("jaxdl")
MANIFEST = "manifest.json"
SMALL = "small.safetensors"
REPLACED = "replaced-"
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a damaged manifest may raise."""


class Checkpoints:
    """The checkpoints of one run: the `last` newest and the `best` by `primary` are kept."""

    def __init__(
        self, directory: Path, *, primary: str = "", mode: str = "max", last: int = 2, best: int = 1
    ):
        # Orbax takes absolute paths only.
        self.directory, self.primary, self.mode = directory.absolute(), primary, mode
        self.last, self.keep_best = last, best
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, Future] | None = None
        self._shapes: dict[str, list] = {}
        self._values: dict[int, float] = {}  # of the primary metric, as far as it was needed

    def steps(self) -> list[int]:
        """Complete steps, oldest first."""
        return [step for step in self.folders() if os.path.exists(self._path(step) / MANIFEST)]

    def folders(self) -> list[int]:
        """Steps that were complete once, damaged ones included, oldest first."""
        with suppress(FileNotFoundError):
            return sorted(int(name) for name in os.listdir(self.directory) if name.isdigit())
        return []

    def best(self) -> tuple[int, float] | None:
        """Step and value of the best checkpoint by the primary metric; the earliest of equals."""
        return next(iter(self._ranked(self.steps())), None)

    def best_intact(self) -> int | None:
        """The best step; None, with a warning, where its files are damaged."""
        return parallel.decided(self._best_intact)

    def _best_intact(self) -> int | None:
        best = self.best()
        if best and (damage := self.damage(best[0])):
            log.warning(
                "the best checkpoint, %d, is damaged (%s); taking the last.", best[0], damage
            )
            return None
        return best and best[0]

    def save(
        self, step: int, state: State, metrics: Mapping[str, float], hooks: Mapping[str, Any]
    ) -> None:
        """Starts writing `state`, then returns; an earlier save is waited for first.

        `metrics` are those of this step's evaluation, `hooks` what the hooks want back on resume.

        Raises:
            InputError: an earlier save failed, e.g. on a full disk.
        """
        self.wait()
        arrays = _parts(state)
        small, large = leaves.split(arrays)
        if next(iter(state.counters.devices())).platform == "cpu":
            # On CPU Orbax holds the buffers themselves, and the next step could not be donated to.
            large = _copied(large)
        draft = self.directory / f"writing-{step:08d}"
        with self._together(step):
            if parallel.is_first():
                if draft.exists():
                    shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(parents=True)
                leaves.write(draft / SMALL, small)
        with self._together(step):
            response = ocp.save_async(draft / "state", _named(large)) if large else None
        manifest = {
            "schema": SCHEMA,
            "step": step,
            "metrics": {k: v for k, v in metrics.items() if k == self.primary},
            "hooks": hooks,
            "arrays": self._described(arrays),
        }
        finish = self._worker.submit(self._finish, step, draft, response, manifest)
        self._pending = step, finish

    def _described(self, arrays: Mapping[str, Any]) -> dict[str, list]:
        """The shapes of a run's arrays, which no update changes."""
        self._shapes = self._shapes or _shapes(arrays)
        return self._shapes

    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
            InputError: the write failed.
        """
        if self._pending is not None:
            (step, pending), self._pending = self._pending, None
            with self._together(step):
                pending.result()

    def close(self) -> None:
        """Waits, for this process only, and ends the writing thread."""
        try:
            if self._pending is not None:
                self._pending[1].result()
        finally:
            self._worker.shutdown()

    def hooks(self, step: int) -> Mapping[str, Any]:
        """What the hooks left at `step`."""
        return self._manifest(step)["hooks"]

    def restore(self, abstract: State, *, repair: bool = False) -> State | None:
        """The newest intact state, laid out like `abstract`; None when nothing was ever saved.

        A damaged step is reported and the one before is taken; with `repair` it is also moved
        aside, so that it does not count among the last.

        Raises:
            InputError: every step is damaged, or they are of another model.
        """
        if repair:
            parallel.decided(self._put_back)
        step, damaged = parallel.decided(self._newest_intact)
        state = None if step is None else self.load(step, abstract)
        if repair:
            parallel.decided(lambda: self._repair(damaged))
        return state

    def _newest_intact(self) -> tuple[int | None, list[int]]:
        """It, and the damaged ones after it."""
        damaged, folders = [], self.folders()
        for step in reversed(folders):
            damage = self.damage(step)
            if not damage:
                break
            log.warning("checkpoint %d is damaged (%s); taking the one before.", step, damage)
            damaged.append(step)
        else:
            if damaged:
                raise InputError(
                    f"every checkpoint in {self.directory} is damaged (steps {folders}); start "
                    f"again with another --run-dir."
                )
            step = None
        return step, damaged

    def load(self, step: int, abstract: State) -> State:
        """The state of `step`, digests unchecked.

        Raises:
            InputError: it was saved by another model, naming the first differences.
        """
        wanted = _parts(abstract)
        saved, mine = self._manifest(step)["arrays"], _shapes(wanted)
        if saved != mine:
            raise InputError(
                f"checkpoint {step} in {self.directory} is of another model: "
                f"{_differences(saved, mine)}."
            )
        flat = tree.flatten(wanted)
        found = leaves.read(self._path(step) / SMALL, flat)
        if large := {path: leaf for path, leaf in flat.items() if path not in found}:
            names, orbax = _named(large), self._path(step) / "state"
            loaded = ocp.load(orbax, names)
            found |= zip(large, (loaded[name] for name in names), strict=True)
        plain = jax.tree.unflatten(jax.tree.structure(wanted), [found[path] for path in flat])
        return abstract.replace(**plain)

    def damage(self, step: int) -> str:
        """What is wrong with the files of `step`; empty when nothing is."""
        root = self._path(step)
        try:
            manifest = self._manifest(step)
            if manifest.pop("digest") != _sha256_of(json.dumps(manifest, sort_keys=True)):
                return f"{MANIFEST} has changed since it was written"
            expected = dict(manifest["files"])
        except FileNotFoundError:
            return f"{MANIFEST} is missing"
        except DAMAGE as error:
            return f"unreadable manifest: {error}"
        for name, digest in expected.items():
            if not (root / name).exists():
                return f"{name} is missing"
            if _sha256(root / name) != digest:
                return f"{name} has changed since it was written"
        return ""

    def _finish(self, step: int, draft: Path, response: Any, manifest: dict) -> None:
        """In the writing thread: completes a step, then deletes those no longer kept."""
        try:
            if response:
                response.result()  # when all processes have written
            if not parallel.is_first():
                return
            files = sorted(p for p in draft.rglob("*") if p.is_file())
            manifest["files"] = {p.relative_to(draft).as_posix(): _sha256(p) for p in files}
            (draft / MANIFEST).write_text(signed(manifest))
            self._put_in_place(draft, self._path(step))
        except Exception as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise self._failed(step, error) from error
        self._values[step] = manifest["metrics"].get(self.primary, math.nan)
        self._prune()

    def _put_in_place(self, draft: Path, target: Path) -> None:
        """A step of that number stays, under another name, until the new one is there."""
        old = target.with_name(f"{REPLACED}{target.name}")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        draft.rename(target)
        shutil.rmtree(old, ignore_errors=True)

    def _put_back(self) -> None:
        """What was being replaced when the run was killed."""
        for old in self.directory.glob(f"{REPLACED}*"):
            target = old.with_name(old.name.removeprefix(REPLACED))
            if target.exists():
                shutil.rmtree(old)
            else:
                old.rename(target)

    def _repair(self, damaged: Sequence[int]) -> None:
        """Moves damaged steps aside and deletes what a killed run was writing."""
        for target in map(self._path, damaged):
            aside = target.with_name(f"damaged-{target.name}")
            shutil.rmtree(aside, ignore_errors=True)
            target.rename(aside)
        for draft in self.directory.glob("writing-*"):
            log.warning("%s was not complete when the run ended; it is deleted.", draft.name)
            shutil.rmtree(draft)
        for gone in self.directory.glob("deleting-*"):
            shutil.rmtree(gone)

    def _prune(self) -> None:
        steps = self.steps()
        best = [step for step, _ in self._ranked(steps)[: self.keep_best]]
        for step in set(steps) - set(steps[-self.last :]) - set(best):
            # Renamed first: a kill amid the deletion must not leave what looks like a damaged step.
            gone = self._path(step).rename(self.directory / f"deleting-{step:08d}")
            shutil.rmtree(gone)

    def _ranked(self, steps: Sequence[int]) -> list[tuple[int, float]]:
        """Those of `steps` with their values of the primary metric, best and earliest first; NaN
        is no value."""
        for step in set(steps) - self._values.keys():
            with suppress(*DAMAGE):  # an unreadable manifest is `restore`'s to report
                self._values[step] = self._manifest(step)["metrics"].get(self.primary, math.nan)
        values = {step: self._values[step] for step in steps if step in self._values}
        sign = -1 if self.mode == "max" else 1
        known = [(step, value) for step, value in values.items() if not math.isnan(value)]
        return sorted(known, key=lambda item: (sign * item[1], item[0]))

    @contextmanager
    def _together(self, step: int) -> Iterator[None]:
        """What fails in one process fails in all, before they go on."""
        failure = None
        try:
            yield
        except InputError as error:
            failure = error
        except Exception as error:
            failure = self._failed(step, error)
            failure.__cause__ = error
        told = parallel.gathered(str(failure or ""))
        if failure is not None:
            raise failure
        for index, problem in enumerate(told):
            if problem:
                raise InputError(f"process {index}: {problem}")

    def _failed(self, step: int, error: Exception) -> InputError:
        left = self.steps()
        resume = f"resumes from step {left[-1]}" if left else "starts again"
        return InputError(
            f"checkpoint {step} could not be written to {self.directory}: {_reason(error)}. Make "
            f"room or mend the disk, then run the same command again: it {resume}."
        )

    def _path(self, step: int) -> Path:
        return self.directory / f"{step:08d}"

    def _manifest(self, step: int) -> dict:
        return json.loads((self._path(step) / MANIFEST).read_text())


@jax.jit
def _copied(arrays: Any) -> Any:
    return jax.tree.map(jnp.copy, arrays)


def _named(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """By names that are file names too, and differ where the paths do."""
    return {path.replace(".", "..").replace("/", "."): leaf for path, leaf in arrays.items()}


def _parts(state: State) -> dict[str, Any]:
    """The state by name, absent parts left out."""
    return {name: value for name, value in state._asdict().items() if value is not None}


def _shapes(arrays: Any) -> dict[str, list]:
    return {path: [list(x.shape), str(x.dtype)] for path, x in tree.flatten(arrays).items()}


def _differences(saved: Mapping, mine: Mapping) -> str:
    """The first three leaves that differ, parameters before optimizer state."""
    paths = [p for p in saved | mine if saved.get(p) != mine.get(p)]
    paths.sort(key=lambda p: not p.startswith("params/"))
    told = [f"{p} is {_leaf(saved.get(p))} there and {_leaf(mine.get(p))} here" for p in paths[:3]]
    return "; ".join(told) + (f"; and {len(paths) - 3} more" if len(paths) > 3 else "")


def _leaf(shape_and_dtype: list | None) -> str:
    return "{1}{0}".format(*shape_and_dtype) if shape_and_dtype else "nothing"


def signed(manifest: Mapping) -> str:
    """The manifest as JSON with its own digest."""
    text = json.dumps(manifest, sort_keys=True)
    return f'{text[:-1]}, "digest": "{_sha256_of(text)}"}}'


def _sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: BaseException) -> str:
    """The innermost cause's first line, its middle left out; Orbax wraps what the system said."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    line = str(error).strip().split("\n")[0] or type(error).__name__
    if "No space left on device" in line:
        return "No space left on device"
    return line if len(line) <= 200 else f"{line[:100]} ... {line[-100:]}"
