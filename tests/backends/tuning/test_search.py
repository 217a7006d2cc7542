"""The search on made-up kernels: what it measures, what it finds, how it goes on."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effc.backends.measure import Latency
from effc.backends.tuning.database import KernelKey, Place, TuningDatabase
from effc.backends.tuning.search import GROUP, KernelSearch, Outcome, shared_out
from effc.backends.tuning.tuner import Known, Tuner
from effc.codegen.schedule import Schedule

PLACE = Place(machine="m", target={}, threads=2, versions={})


@dataclass(frozen=True)
class Point(Schedule):
    x: int
    y: int


SPACE = tuple(Point(x, y) for x in range(10) for y in range(10))
BEST = Point(7, 3)


@dataclass
class Machine:
    """Times a test decides; refuses, or stops, where it is told to."""

    broken: set[Schedule] = field(default_factory=set)
    stop_after: int | None = None
    calls: list[tuple[tuple[Schedule, ...], int]] = field(default_factory=list)

    def seconds(self, point: Schedule) -> float:
        assert isinstance(point, Point)
        return 1.0 + abs(point.x - BEST.x) + abs(point.y - BEST.y)

    def __call__(self, schedules, rounds):
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((tuple(schedules), rounds))
        return [
            Outcome(problem="crashed")
            if schedule in self.broken
            else Outcome(latency=Latency.of([self.seconds(schedule)] * rounds))
            for schedule in schedules
        ]


def search_of(path, machine, trials, space=SPACE, seed=0):
    database = TuningDatabase.open(path)
    key = KernelKey(kernel="k", sizes={}, place=PLACE)
    return KernelSearch(key, "product", space, trials, database, machine, seed)


def test_a_small_space_is_measured_as_a_whole(tmp_path):
    machine = Machine()
    search = search_of(tmp_path / "db", machine, 100)
    search.run()
    assert search.measured == 100
    best = search.database.best(search.key)
    assert best is not None
    assert best.schedule == BEST.values()
    assert all(schedules[0] == SPACE[0] for schedules, _ in machine.calls)
    assert max(len(schedules) for schedules, _ in machine.calls) <= GROUP


@pytest.mark.parametrize("trials", [2, 5, 17, 40])
def test_the_number_of_trials_is_kept_and_neighbours_of_the_best_are_tried(tmp_path, trials):
    machine = Machine()
    search = search_of(tmp_path / "db", machine, trials)
    search.run()
    assert trials <= search.measured <= trials + 1  # the default is always measured
    best = search.database.best(search.key)
    assert best is not None
    sampled = search.first_candidates()
    reached = min(machine.seconds(Point(**best.schedule)), machine.seconds(SPACE[0]))
    assert reached <= min(machine.seconds(point) for point in sampled)


def test_the_best_are_measured_in_more_rounds_against_the_default(tmp_path):
    machine = Machine()
    search_of(tmp_path / "db", machine, 40).run()
    rounds = [rounds for _, rounds in machine.calls]
    assert rounds == sorted(rounds)
    assert rounds[-1] > rounds[0]
    finalists, _ = machine.calls[-1]
    assert finalists[0] == SPACE[0]
    assert len(finalists) <= 4


def test_candidates_that_do_not_work_are_recorded_and_never_win(tmp_path):
    machine = Machine(broken={BEST, SPACE[1]})
    search = search_of(tmp_path / "db", machine, 100)
    search.run()
    best = search.database.best(search.key)
    assert best is not None
    assert best.schedule != BEST.values()
    problems = {
        tuple(e.schedule.values()): e.problem for e in search.database.lookup(search.key)
        if e.problem
    }  # fmt: skip
    assert problems == {(7, 3): "crashed", (0, 1): "crashed"}


def test_a_default_that_does_not_work_tunes_nothing(tmp_path):
    search = search_of(tmp_path / "db", Machine(broken={SPACE[0]}), 20)
    search.run()
    assert search.database.best(search.key) is None


@settings(deadline=None, max_examples=30)
@given(stop=st.integers(0, 14), trials=st.integers(2, 110), seed=st.integers(0, 3))
def test_a_stopped_search_goes_on_and_ends_as_an_undisturbed_one(
    tmp_path_factory, stop, trials, seed
):
    folder = tmp_path_factory.mktemp("db")
    whole = Machine()
    search_of(folder / "whole", whole, trials, seed=seed).run()
    stopped = Machine(stop_after=stop)
    try:
        search_of(folder / "cut", stopped, trials, seed=seed).run()
    except KeyboardInterrupt:
        assert len(stopped.calls) == stop
    later = Machine()
    search_of(folder / "cut", later, trials, seed=seed).run()
    assert stopped.calls + later.calls == whole.calls
    again = Machine()
    last = search_of(folder / "cut", again, trials, seed=seed)
    last.run()
    assert again.calls == []
    assert last.measured == 0
    assert last.found >= min(trials, len(SPACE))


def test_more_trials_keep_what_was_measured(tmp_path):
    search_of(tmp_path / "db", Machine(), 20).run()
    machine = Machine()
    search = search_of(tmp_path / "db", machine, 100)
    search.run()
    assert search.measured + search.found == 100
    assert search.found >= 20


@given(
    trials=st.integers(0, 300),
    kernels=st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=3),
        st.tuples(st.floats(0, 10), st.integers(1, 50)),
        max_size=8,
    ),
)
def test_trials_are_shared_out(trials, kernels):
    seconds = {name: value for name, (value, _) in kernels.items()}
    spaces = {name: size for name, (_, size) in kernels.items()}
    given_ = shared_out(trials, seconds, spaces)
    assert sum(given_.values()) <= trials
    assert all(1 <= count <= spaces[name] for name, count in given_.items())
    open_ = [name for name in kernels if spaces[name] > 1]
    room = sum(spaces[name] for name in open_)
    if trials >= 2 and open_:
        assert sum(given_.values()) >= min(trials, room) - 1


def test_slow_kernels_get_more_trials():
    given_ = shared_out(100, {"a": 8.0, "b": 1.0, "c": 1.0}, {"a": 500, "b": 500, "c": 1})
    assert given_ == {"a": 89, "b": 11}
    few = shared_out(5, {"a": 8.0, "b": 7.0, "c": 1.0}, {"a": 500, "b": 500, "c": 500})
    assert few == {"a": 3, "b": 2}


@dataclass
class Model:
    """Two kernels; counts how often it was profiled."""

    machine: Machine
    profiles: int = 0

    def spaces(self):
        return {
            "slow": ("product", SPACE),
            "fast": ("product", SPACE[:5]),
            "fixed": ("x", SPACE[:1]),
        }

    def profile(self):
        self.profiles += 1
        return {"slow": 1.0 + self.profiles, "fast": 0.5, "fixed": 1.0}

    def benches(self, kernels):
        for kernel in kernels:
            yield kernel, self.machine


def test_a_second_tuning_measures_nothing(tmp_path):
    known = Known(TuningDatabase.open(tmp_path / "db"), PLACE, {})
    model, stages = Model(Machine()), []
    tuner = Tuner(known, 30, progress=lambda *step: stages.append(step))
    tuner.run(model)
    assert 30 <= tuner.measured <= 31
    assert stages[-1][1:] == (30, 30)
    assert stages[-1][0].startswith("tune; kernels ")
    assert [step[1] for step in stages] == sorted(step[1] for step in stages)
    assert known.chosen("slow") is not None
    assert known.chosen("fixed") is None
    second = Tuner(Known(TuningDatabase.open(tmp_path / "db"), PLACE, {}), 30)
    later = Model(Machine())
    second.run(later)
    assert (second.measured, later.machine.calls, later.profiles) == (0, [], 0)


def test_gains_within_noise_are_no_gains(tmp_path):
    machine = Machine()
    machine.seconds = lambda point: 0.99 if point == SPACE[1] else 1.0  # type: ignore[method-assign]
    search = search_of(tmp_path / "db", machine, 2, SPACE[:2])
    search.run()
    known = Known(search.database, PLACE, {})
    best = search.database.best(search.key)
    assert best is not None
    assert best.schedule == SPACE[1].values()
    assert known.chosen("k") is None
