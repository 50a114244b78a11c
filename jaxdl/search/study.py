"""Optuna, wrapped: the trials of a sweep in a storage that many workers share.

A trial is a number below the total. A worker that claims one signs it and keeps the mark moving;
where the mark stands still, another puts the trial back in the queue, parameters and all, and
nothing that the first still does counts. So no trial is lost, and none counts twice.
"""

from __future__ import annotations

import json
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from jaxdl.core.errors import InputError
from jaxdl.search.objective import MODES, Objective
from jaxdl.search.space import Choice, Domain, Integer, LogUniform, Space, grid
from jaxdl.search.storage import open_storage, reaching

try:
    import optuna
    from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
    from optuna.trial import FrozenTrial, Trial, TrialState
except ModuleNotFoundError as error:
    raise InputError(
        f"a sweep needs {error.name}; install it with: pip install 'jaxdl[search]'"
    ) from None

SAMPLERS = ("tpe", "cmaes", "grid", "random")
PRUNERS = ("none", "median", "hyperband")
ETA = 3
"""Of so many trials that Hyperband compares one goes on."""
MARK, AGAIN, FACTS, ID = "worker", "again", "sweep", "id"
"""Attributes of a trial: who works on it and how often that was said; whether it has had its second
chance. Of a study: what it was made for; what no other has."""


@dataclass(frozen=True)
class Row:
    """A trial as it stands."""

    number: int
    state: str
    """`done`, `pruned`, `failed`, `running` or `waiting`."""
    labels: Mapping[str, Any]
    values: tuple[float, ...] = ()
    """By objective; of a pruned trial the last it reported."""
    failure: str = ""


class Study:
    """One study of a storage, as one worker sees it."""

    def __init__(self, study: optuna.Study, space: Space, worker: str, total: int):
        self._study, self._space, self.worker, self.total = study, space, worker, total
        self._storage = study._storage
        self._seen: dict[int, tuple[Any, float]] = {}
        self._beats: dict[int, int] = {}
        self._reported: dict[int, set[int]] = {}

    def rows(self) -> list[Row]:
        """All trials below the total, by number."""
        return [_row(trial) for trial in self._trials()]

    def finished(self) -> bool:
        """Whether there is nothing left for anybody."""
        trials = self._trials()
        return len(trials) == self.total and all(t.state.is_finished() for t in trials)

    def claim(self) -> Trial | None:
        """A trial with its parameters, put back or new; None where none is left."""
        found = self._study.get_trials(deepcopy=False)
        waiting = any(t.state == TrialState.WAITING for t in found[: self.total])
        if not waiting and len(found) >= self.total:
            return None
        trial = self._study.ask()
        if trial.number >= self.total:  # another was quicker; a larger total will want it
            self._put_back(trial._trial_id)
            return None
        self._sign(trial)
        before = self._storage.get_trial(trial._trial_id).intermediate_values
        self._reported[trial.number] = set(before)
        for path, domain in self._space.items():
            _suggest(trial, path, domain)
        return trial

    def keep(self, trial: Trial) -> bool:
        """Says that this worker is still at it; False where the trial is no longer its own."""
        if not self.owns(trial):
            return False
        self._sign(trial)
        return True

    def owns(self, trial: Trial) -> bool:
        """Whether nobody else has put the trial back meanwhile."""
        now = self._storage.get_trial(trial._trial_id)
        mark = now.user_attrs.get(MARK) or [None]
        return now.state == TrialState.RUNNING and mark[0] == self.worker

    def report(self, trial: Trial, points: Iterable[tuple[int, float]]) -> bool:
        """Notes the objective at these steps, what was noted before aside; whether the pruner has
        seen enough."""
        known = self._reported.setdefault(trial.number, set())
        fresh = {step: value for step, value in points if step not in known}
        for step, value in fresh.items():
            trial.report(value, step)
        known |= fresh.keys()
        return bool(fresh) and trial.should_prune()

    def complete(self, trial: Trial, values: Sequence[float]) -> None:
        """Ends a trial with its objectives."""
        self._tell(trial, TrialState.COMPLETE, list(values))

    def prune(self, trial: Trial) -> None:
        """Ends a trial that was stopped."""
        self._tell(trial, TrialState.PRUNED)

    def fail(self, trial: Trial, failure: str) -> None:
        """Ends a trial whose run went wrong; it is kept and not tried again."""
        trial.set_user_attr("failure", failure)
        self._tell(trial, TrialState.FAIL)

    def put_back(self, trial: Trial) -> None:
        """Leaves a trial to whoever comes next."""
        if self.owns(trial):
            self._put_back(trial._trial_id)

    def put_back_once(self, trial: Trial) -> bool:
        """Like `put_back`, the first time that any worker does it; whether it did."""
        if self._storage.get_trial(trial._trial_id).user_attrs.get(AGAIN):
            return False
        trial.set_user_attr(AGAIN, True)
        self.put_back(trial)
        return True

    def reclaim(self, dead: Callable[[str], bool], grace: float) -> list[int]:
        """Puts back the trials of workers that are `dead`, or whose mark stood still for `grace`
        seconds of this process's clock; their numbers."""
        found, now = [], time.monotonic()
        for trial in self._trials():
            mark = trial.user_attrs.get(MARK)
            if trial.state != TrialState.RUNNING or (mark and mark[0] == self.worker):
                continue
            if self._seen.get(trial.number, (None, 0))[0] != (seen := json.dumps(mark)):
                self._seen[trial.number] = (seen, now)
            still = now - self._seen[trial.number][1]
            if (mark and dead(mark[0])) or still > grace:
                latest = self._storage.get_trial(trial._trial_id)
                same = latest.user_attrs.get(MARK) == mark and latest.state == TrialState.RUNNING
                if same and self._put_back(trial._trial_id):
                    found.append(trial.number)
        return found

    def best(self) -> list[Row]:
        """The best trial first, then equally good ones; of several objectives the Pareto front,
        the best by the first of them in front."""
        done = [t for t in self._trials() if t.state == TrialState.COMPLETE]
        signs = [1 if d.name == "MINIMIZE" else -1 for d in self._study.directions]
        costs = {t.number: [s * v for s, v in zip(signs, t.values, strict=True)] for t in done}
        front = [t for t in done if not any(_dominates(c, costs[t.number]) for c in costs.values())]
        return [_row(t) for t in sorted(front, key=lambda t: (costs[t.number], t.number))]

    def importance(self) -> dict[str, float]:
        """Share of each parameter in the spread of the first objective, by fANOVA; empty where
        there is too little to tell."""
        done = [t for t in self._trials() if t.state == TrialState.COMPLETE]
        if len({t.values[0] for t in done}) < 2 or len(done) < 4:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        with suppress(RuntimeError, ValueError):
            return optuna.importance.get_param_importances(
                self._study, evaluator=evaluator, target=lambda trial: trial.values[0]
            )
        return {}

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)[: self.total]

    def _sign(self, trial: Trial) -> None:
        beats = self._beats[trial.number] = self._beats.get(trial.number, 0) + 1
        trial.set_user_attr(MARK, [self.worker, beats])

    def _put_back(self, trial_id: int) -> bool:
        with suppress(UpdateFinishedTrialError):
            return self._storage.set_trial_state_values(trial_id, state=TrialState.WAITING)
        return False

    def _tell(self, trial: Trial, state: TrialState, values: list[float] | None = None) -> None:
        if self.owns(trial):
            with suppress(ValueError):  # put back this very moment
                self._study.tell(trial, values, state=state)


class Seeded(optuna.samplers.BaseSampler):
    """A sampler that is made anew for every trial, seeded by its number: what a trial gets does
    not depend on which worker asks, and two workers never draw the same numbers."""

    def __init__(self, make: Callable[[int], optuna.samplers.BaseSampler], seed: int):
        self._make, self._seed = make, seed
        self._inner = make(seed)

    def before_trial(self, study: Any, trial: FrozenTrial) -> None:
        """A new sampler for this trial."""
        self._inner = self._make(zlib.crc32(f"{self._seed}/{trial.number}".encode()))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, Any]:
        """What is drawn together."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Parameters drawn together."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: FrozenTrial, name: str, domain: Any) -> Any:
        """One parameter."""
        return self._inner.sample_independent(study, trial, name, domain)

    def after_trial(self, study: Any, trial: FrozenTrial, state: Any, values: Any) -> None:
        """What the sampler wants to keep."""
        self._inner.after_trial(study, trial, state, values)


class Grid(optuna.samplers.BaseSampler):
    """Trial n is point n of the grid, whoever runs it."""

    def __init__(self, points: Sequence[Mapping[str, Any]]):
        self._points = points

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, Any]:
        """Nothing is drawn together."""
        return {}

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(self, study: Any, trial: FrozenTrial, name: str, domain: Any) -> Any:
        """The point's value."""
        return self._points[trial.number][name]


def make_sampler(name: str, space: Space, seed: int, several: bool) -> Any:
    """The sampler called `name` for a space; `several` objectives?

    Raises:
        InputError: it cannot search this space.
    """
    if name == "grid":
        return Grid(grid(space))
    if name == "random":
        return Seeded(lambda seed: optuna.samplers.RandomSampler(seed=seed), seed)
    if name == "tpe":
        return Seeded(lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True), seed)
    numbers = [path for path, domain in space.items() if not isinstance(domain, Choice)]
    if several or len(numbers) < 2:
        raise InputError(
            "cmaes needs one objective and at least two numbers to search (Uniform, LogUniform, "
            "Integer); choose --sampler tpe."
        )
    with _installed():
        import cmaes  # noqa: F401 optuna imports it when the second trial is asked for
    make = optuna.samplers.CmaEsSampler
    return Seeded(lambda seed: make(seed=seed, warn_independent_sampling=False), seed)


def make_pruner(name: str, every: int, steps: int) -> Any:
    """The pruner called `name` for runs of `steps` updates, judged every so many."""
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(every, max(every, steps), ETA)
    return optuna.pruners.MedianPruner() if name == "median" else optuna.pruners.NopPruner()


def open_study(
    url: str,
    name: str,
    objectives: Sequence[Objective],
    facts: Mapping[str, Any],
    sampler: Any,
    pruner: Any,
) -> optuna.Study:
    """The study called `name` at `url`, made if there is none.

    Raises:
        InputError: the storage cannot be opened, or its study was made for something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [MODES[objective.mode] for objective in objectives]
    with reaching(url):
        storage = open_storage(url)
    with reaching(url), suppress(DuplicatedStudyError):
        made = optuna.create_study(storage=storage, study_name=name, directions=directions)
        made.set_user_attr(ID, uuid.uuid4().hex)
        made.set_user_attr(FACTS, dict(facts))
    with reaching(url):
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        there = study.user_attrs.get(FACTS) or {}
    facts = json.loads(json.dumps(facts))
    told = [
        f"{k} {there.get(k)!r} there, {facts[k]!r} here" for k in facts if there.get(k) != facts[k]
    ]
    if there and told:
        raise InputError(
            f"study {name} was made for something else ({'; '.join(told)}); give the same, or "
            "another --study."
        )
    return study


def identity(study: optuna.Study, tries: int = 20) -> str:
    """What no other study has, of the same name neither; whoever made it says it in a moment."""
    for _ in range(tries):
        if found := study.user_attrs.get(ID):
            return found
        time.sleep(0.1)
    study.set_user_attr(ID, uuid.uuid4().hex)
    return study.user_attrs[ID]


@contextmanager
def _installed():
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"this sampler needs {error.name}; install it with: pip install 'jaxdl[search]'"
        ) from None


def _suggest(trial: Trial, path: str, domain: Domain) -> None:
    """Draws one parameter, unless the trial has it from before."""
    if isinstance(domain, Choice):
        trial.suggest_categorical(path, list(domain.labels))
    elif isinstance(domain, Integer):
        trial.suggest_int(path, domain.low, domain.high, step=domain.step, log=domain.log)
    else:
        trial.suggest_float(path, domain.low, domain.high, log=isinstance(domain, LogUniform))


def _row(trial: FrozenTrial) -> Row:
    names = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}
    state = names.get(trial.state.name, trial.state.name.lower())
    failure = trial.user_attrs.get("failure", "")
    return Row(trial.number, state, dict(trial.params), tuple(trial.values or ()), failure)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
