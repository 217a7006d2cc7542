"""Search over whole recipes, guided by what earlier searches measured on this and other models.

J. Lee et al., "Quantune", 2022, arXiv 2202.05048: gradient-boosted trees learn from recipes and
features of the graph how much quality a recipe loses, and say which one to try next. Trials run in
PyTorch; the best few are built and measured. Every trial goes into a history, a file of JSON lines,
which a search on the next model begins with and a stopped one goes on from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effc.budgets import loss_of
from effc.candidate import Candidate as Build
from effc.evaluation import EagerModel
from effc.ir import options
from effc.ir.errors import NotAvailableError, UsageError
from effc.ir.text import fingerprint
from effc.metrics import metric_of, quality
from effc.passes.registry import parse_pipeline
from effc.recipe_space import Candidate, candidates, graph_features
from effc.version import __version__

if TYPE_CHECKING:
    from effc.compiler import Compilation

STAGE = "search recipes"
FIRST, VERIFIED = 4, 3
NOISE_WEIGHT = 0.01  # what the relative noise of the outputs counts beside a relative loss
WORST = 10.0
FILE = "recipes.jsonl"
Row = dict[str, Any]


@dataclass
class History:
    """Every trial of every model.

    Attributes:
        path: The file; appears with the first trial.
        rows: What it holds: `key`, `values`, `graph`, `quality`, `badness`.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> History:
        """Read a history; lines of killed writers and of other versions are left out."""
        found = cls(path)
        try:
            lines = path.read_text().splitlines()
        except OSError:
            lines = []
        for line in lines:
            try:
                row = json.loads(line)
                is_known = row["version"] == __version__ and np.isfinite(row["badness"])
                if is_known and isinstance(row["key"], str):
                    Candidate(tuple(row["values"])).features  # noqa: B018
                    found.rows.append(row)
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def add(self, row: Row) -> None:
        """Append a trial.

        Raises:
            UsageError: If the file cannot be written.
        """
        self.rows.append(row)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
                if file.read(1) not in (b"", b"\n"):  # what a killed writer left of a line
                    file.write(b"\n")
                file.write(json.dumps(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror}") from error


@dataclass
class RecipeSearch:
    """A search on one model.

    Attributes:
        compilation: Has a baseline, and data to evaluate on.
        trials: How many recipes to know of in the end.
        history: Trials of this and other models.
    """

    compilation: Compilation
    trials: int
    history: History

    def __post_init__(self) -> None:
        """Find out which model this is."""
        prepared = self.compilation.prepared
        if prepared.evaluation is None or prepared.metric is None:
            raise UsageError("--search needs evaluation data; give it with --eval")
        program = prepared.clean.program
        data = [prepared.evaluation, prepared.calibration]
        parts = [fingerprint(program), prepared.metric.name, str(prepared.recipe.seed)]
        parts += ["" if one is None else one.fingerprint() for one in data]
        parts += [str(prepared.recipe.exclude), str(prepared.recipe.set)]
        self.key = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
        self.graph = graph_features(program)
        self.space = [
            one for one in candidates()
            if prepared.calibration is not None or one.settings["activations"] == "dynamic"
        ]  # fmt: skip

    def run(self) -> list[Candidate]:
        """Try recipes; all known ones of this model, the best first."""
        known = self._known()
        wanted = min(self.trials, len(self.space))
        while len(known) < wanted:
            self.compilation.progress(STAGE, len(known), wanted)
            candidate = self._next(known)
            known[candidate] = self._tried(candidate)
        self.compilation.progress(STAGE, wanted, wanted)
        return sorted(known, key=lambda one: known[one])

    def _known(self) -> dict[Candidate, float]:
        names = set(self.space)
        rows = [row for row in self.history.rows if row["key"] == self.key]
        found = {Candidate(tuple(row["values"])): float(row["badness"]) for row in rows}
        return {one: badness for one, badness in found.items() if one in names}

    def _next(self, known: dict[Candidate, float]) -> Candidate:
        """The untried recipe trees expect most of; random ones until there is enough to learn."""
        left = [one for one in self.space if one not in known]
        rows = self.history.rows
        draw = self.compilation.prepared.context().rng(f"{STAGE} {len(known)}")
        if len(rows) < FIRST:
            return left[int(draw.integers(0, len(left)))]
        model = _trees(self.compilation.prepared.recipe.seed)
        features = [[*Candidate(tuple(row["values"])).features, *row["graph"]] for row in rows]
        model.fit(np.array(features), np.log10([max(row["badness"], 1e-9) for row in rows]))
        expected = model.predict(np.array([[*one.features, *self.graph] for one in left]))
        return left[int(np.argmin(expected))]

    def _tried(self, candidate: Candidate) -> float:
        """How bad a recipe is, in PyTorch: relative loss of quality, and a little of the noise."""
        prepared = self.compilation.prepared
        assert prepared.metric is not None
        assert prepared.evaluation is not None
        report = self.compilation.transformed(passes=parse_pipeline(candidate.passes))
        model, reference = EagerModel(report.program), EagerModel(prepared.clean.program)
        scores = quality(model, prepared.evaluation, prepared.metric, reference)
        found = next(iter(scores.values()))
        ratio = next(iter(
            quality(model, prepared.evaluation, metric_of("sqnr"), reference).values()
        ))  # fmt: skip
        before = self.compilation.baseline.quality or 0.0
        loss = loss_of(before, found, prepared.metric.better) / (abs(before) or 1.0)
        badness = max(loss, 0.0) + NOISE_WEIGHT * 10 ** (-ratio / 20)
        badness = min(badness, WORST) if np.isfinite(badness) else WORST
        self.history.add({
            "version": __version__, "key": self.key, "values": list(candidate.values),
            "graph": self.graph, "quality": found, "badness": badness,
        })  # fmt: skip
        return badness


def _trees(seed: int) -> Any:
    try:
        from sklearn.ensemble import GradientBoostingRegressor
    except ImportError as error:
        raise NotAvailableError(
            "--search without scikit-learn (pip install effc[search])"
        ) from error
    return GradientBoostingRegressor(n_estimators=100, max_depth=3, random_state=seed)


def searched(compilation: Compilation, work: Path) -> Build:
    """Search, build the best few recipes, and take the one of best measured quality.

    Of equal quality, the one with fewer bytes. The resolved recipe names its pipeline.

    Args:
        compilation: Has a baseline.
        work: Where to build.
    """
    history = History.open(options.cache_folder() / FILE)
    before = len(history.rows)
    search = RecipeSearch(compilation, compilation.prepared.recipe.search, history)
    ranked = search.run()
    metric = compilation.prepared.metric
    assert metric is not None
    sign = 1.0 if metric.better == "higher" else -1.0
    best: Build | None = None
    chosen, rank = ranked[0], (0.0, 0.0)
    for number, candidate in enumerate(ranked[:VERIFIED]):
        report = compilation.transformed(passes=parse_pipeline(candidate.passes))
        build = compilation.tried(report, work / f"recipe-{number}", "compiled")
        compilation.trials[-1]["what"] = candidate.passes
        found = (-sign * (build.quality or 0.0), float(build.size_nbytes))
        loser: Build | None = build
        if best is None or found < rank:
            loser, best, chosen, rank = best, build, candidate, found
        if loser is not None:
            loser.model.close()
            shutil.rmtree(loser.folder)
    assert best is not None, "at least one recipe is built"
    tried, built = len(history.rows) - before, min(VERIFIED, len(ranked))
    compilation.notes.append(
        f"{tried} recipes tried now, {len(ranked)} known of this model, {built} built; the best is "
        f"{chosen.passes}"
    )
    compilation.resolve(passes=chosen.passes)
    return best
