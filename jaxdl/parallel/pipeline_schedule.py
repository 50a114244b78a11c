"""When each stage of a pipeline works on which micro-batch.

Time goes in ticks. In a tick a stage takes a forward and a backward slot; all wait for one another,
so a slot in which only some have work is lost to the others: the bubble.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxdl.core.errors import InputError

CHUNKS = {"gpipe": 1, "1f1b": 1, "interleaved": 2}
"""Runs of layers that each stage holds, by the name of the schedule."""


class Work(NamedTuple):
    """What one slot is for; numbers of Python, or traced ones."""

    micro: Any
    """The micro-batch."""
    chunk: Any
    """Which of the stage's chunks of layers: chunk c of stage s is the (c S + s)-th of the model's.
    """
    active: Any
    """Whether there is work; if not, the other two are in range and mean nothing."""


@dataclass(frozen=True)
class Schedule:
    """S stages, each with C chunks of layers, over M micro-batches.

    Every stage takes its forward slots, M C of them, in the same order, one tick after the stage
    before it; and its backward slots in an order that mirrors it, one tick after the stage behind
    it. `1f1b` (Narayanan et al. 2019, arXiv:1806.03377) begins to go back when the first
    micro-batch has reached the end; with more chunks it is `interleaved` (Narayanan et al. 2021,
    arXiv:2104.04473, section 2.2). `gpipe` (Huang et al. 2018, arXiv:1811.06965) goes back when
    all have.

    At stage s, a forward slot in tick k + s has its backward slot in tick k' + C S - 1 + S - 1 - s,
    where k' - k is (C - 1 - 2 c) S for chunk c. That is at most 2 C S - 2 ticks later (c = s = 0),
    so that 2 C S - 1 inputs of chunks are all that a stage of 1f1b and interleaved ever keeps,
    whatever M is; gpipe keeps M.

    Raises:
        InputError: several chunks, and a number of micro-batches that S does not divide.
    """

    kind: str
    stages: int
    micro_batches: int

    def __post_init__(self):
        """Groups of S micro-batches take turns with the chunks."""
        over = self.micro_batches % self.stages
        if self.chunks > 1 and over:
            below = self.micro_batches - over
            fits = " or ".join(str(n) for n in (below, below + self.stages) if n)
            raise InputError(
                f"accumulate={self.micro_batches} does not divide over the {self.stages} stages of "
                f"an interleaved pipeline; try {fits}."
            )

    @property
    def chunks(self) -> int:
        """C."""
        return CHUNKS[self.kind]

    @property
    def slots(self) -> int:
        """Forward slots of a stage, and as many backward slots."""
        return self.micro_batches * self.chunks

    @property
    def forward_ticks(self) -> range:
        """Ticks in which some stage goes forward."""
        return range(self.slots + self.stages - 1)

    @property
    def backward_ticks(self) -> range:
        """Ticks in which some stage goes back."""
        start = self.chunks * self.stages - 1
        if self.kind == "gpipe":
            start = len(self.forward_ticks)
        return range(start, start + self.slots + self.stages - 1)

    @property
    def kept(self) -> int:
        """Slots for inputs of chunks at a stage, written in turn."""
        most = self.slots if self.kind == "gpipe" else 2 * self.chunks * self.stages - 1
        return min(self.slots, most)

    def forward(self, tick: Any, stage: Any) -> Work:
        """What a stage takes forward in a tick."""
        return self._work(tick - stage)

    def backward(self, tick: Any, stage: Any) -> Work:
        """What a stage takes back in a tick; its input lies in slot `kept_at` of what is kept."""
        slot = tick - self.backward_ticks.start - (self.stages - 1 - stage)
        micro, chunk, active = self._work(slot)
        return Work(micro, self.chunks - 1 - chunk, active)

    def kept_at(self, work: Work) -> Any:
        """Where the input of this work is kept."""
        group, within = work.micro // self.stages, work.micro % self.stages
        slot = (group * self.chunks + work.chunk) * self.stages + within
        return slot % self.kept

    def _work(self, slot: Any) -> Work:
        active = (slot >= 0) & (slot < self.slots)
        slot = slot * active
        turn, within = slot // self.stages, slot % self.stages
        return Work(turn // self.chunks * self.stages + within, turn % self.chunks, active)


def bubble(stages: int, micro_batches: int, kind: str = "1f1b") -> float:
    """The share of a pipeline's slots in which there is no work, counted in its schedule.

    It is (S - 1) / (M C + S - 1) for C chunks: more micro-batches make it small.
    """
    schedule = Schedule(kind, stages, micro_batches)
    taken = [
        [work(tick, stage).active for stage in range(stages)]
        for work, ticks in (
            (schedule.forward, schedule.forward_ticks),
            (schedule.backward, schedule.backward_ticks),
        )
        for tick in ticks
    ]
    slots = [active for slot in taken for active in slot]
    return slots.count(False) / len(slots)


def peak(stages: int, micro_batches: int, kind: str = "1f1b") -> list[int]:
    """For each stage, how many inputs of its chunks it keeps at most, counted in the schedule."""
    schedule = Schedule(kind, stages, micro_batches)
    most, live = Counter(), Counter()
    for tick in range(schedule.backward_ticks.stop):
        for stage in range(stages):
            live[stage] += tick in schedule.forward_ticks and schedule.forward(tick, stage).active
            most[stage] = max(most[stage], live[stage])
            back = tick in schedule.backward_ticks and schedule.backward(tick, stage).active
            live[stage] -= back
    return [most[stage] for stage in range(stages)]
