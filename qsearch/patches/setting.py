"""What a search of patches tries: a setting of patches, or a whole image at one allocation, and the space of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import Trial

from qsearch.errors import QsearchError
from qsearch.patches.split import Layout, Merge

EDGES, RELATIVE, SMOOTH, CLUSTERS = "edges", "relative", "smooth", "clusters"
POLICIES = (EDGES, RELATIVE, SMOOTH, CLUSTERS)
"""Which patches get the high allocation: those of strong edges, of edges that are strong in their image (see `rule`),
the smooth ones, or references of clusters."""
OWN, COMMON = "own", "common"
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WHOLE = "whole"
"""The parameter of a trial of whole images."""
Value = str | int | float | None
Params = dict[str, Value]


@dataclass(frozen=True)
class Setting:
    """Patches at two allocations; merged by cropping, or seamless."""

    patch: int
    overlap: int | None
    """None where patches are seamless."""
    policy: str
    """One of `POLICIES`."""
    classes: int
    """Texture classes; 0 where nothing is clustered."""
    share: float
    """Of calibration's patches at the high allocation; by clusters of the references in each (at least one)."""
    high: str
    low: str
    """Names of allocations."""
    own_ranges: bool
    """Whether each level is calibrated on the patches that it gets."""

    @property
    def layout(self) -> Layout:
        """How images are split."""
        return layout_of(self.patch, self.overlap)

    @property
    def levels(self) -> tuple[str, str]:
        """The allocations in the order in which the policy numbers them: edges come first, smooth patches last."""
        return (self.low, self.high) if self.policy == SMOOTH else (self.high, self.low)

    @property
    def decided(self) -> "Setting":
        """The setting without what does not change decisions: equal for settings that decide alike."""
        return Setting(self.patch, self.overlap, self.policy, self.classes, self.share, "", "", False)


@dataclass(frozen=True)
class Whole:
    """Whole images at one allocation, named `level`: what patches have to beat."""

    level: str


@dataclass(frozen=True)
class PatchSpace:
    """Every choice of a search; `levels` are names from the highest allocation to the lowest.

    Raises `QsearchError` for choices that cannot be.
    """

    patches: tuple[int, ...]
    overlaps: tuple[int | None, ...]
    """None stands for seamless patches."""
    policies: tuple[str, ...]
    classes: tuple[int, ...]
    levels: tuple[str, ...]
    ranges: tuple[str, ...] = (OWN, COMMON)
    shares: tuple[float, ...] = SHARES

    def __post_init__(self) -> None:
        if len(self.levels) < 2:
            raise QsearchError(f"a search of patches needs at least two allocations, not {', '.join(self.levels)}")
        for name, values in {**self.choices(), "levels": self.levels}.items():
            if not values or len(set(values)) < len(values):
                raise QsearchError(f"a search of patches needs {name} to choose from, each named once: {list(values)}")
        for name, known in (("policies", POLICIES), ("ranges", (OWN, COMMON))):
            for value in getattr(self, name):
                if value not in known:
                    raise QsearchError(f"{name} of a search of patches are {', '.join(known)}, not {value!r}")
        for patch in self.patches:
            for overlap in self.overlaps:
                layout_of(patch, overlap)
        if min(self.classes) < 2:
            raise QsearchError(f"clusters need at least 2 classes of texture, not {min(self.classes)}")

    def choices(self) -> dict[str, Sequence[Value]]:
        """The values of every parameter of a setting, in their order."""
        return {
            "patch": self.patches,
            "overlap": self.overlaps,
            "policy": self.policies,
            "classes": self.classes,
            "share": self.shares,
            "high": self.levels[:-1],
            "low": self.levels[1:],
            "ranges": self.ranges,
        }

    def distributions(self) -> dict[str, BaseDistribution]:
        """One distribution per parameter of a setting."""
        return {name: CategoricalDistribution(values) for name, values in self.choices().items()}

    def suggest(self, trial: Trial, whole: bool) -> Setting | Whole:
        """Let a trial take its parameters: those of whole images or those of patches."""
        if whole:
            return Whole(str(trial.suggest_categorical(WHOLE, self.levels)))
        taken: Params = {}
        for name, values in self.choices().items():
            if name != "classes" or taken["policy"] == CLUSTERS:
                taken[name] = trial.suggest_categorical(name, values)
        return setting_of(taken)

    def complete(self, params: Mapping[str, Any]) -> bool:
        """Whether a trial has all its parameters."""
        if WHOLE in params:
            return True
        needed = set(self.choices()) - (set() if params.get("policy") == CLUSTERS else {"classes"})
        return needed <= set(params)

    def valid(self, params: Mapping[str, Any]) -> bool:
        """Whether the high allocation is above the low one."""
        return self.levels.index(params["high"]) < self.levels.index(params["low"])

    def seeds(self) -> list[Params]:
        """Neighbouring allocations in the largest patches with the least overlap, where patches lose least."""
        found: list[Params] = []
        for high, low in pairwise(self.levels):
            for policy in self.policies:
                least = min(self.overlaps, key=lambda overlap: -1 if overlap is None else overlap)
                params: Params = {"patch": max(self.patches), "overlap": least, "policy": policy}
                if policy == CLUSTERS:
                    params["classes"] = self.classes[0]
                share = min(self.shares, key=lambda share: abs(share - 0.5))
                ranges = COMMON if COMMON in self.ranges else OWN
                found.append({**params, "share": share, "high": high, "low": low, "ranges": ranges})
        return found


def layout_of(patch: int, overlap: int | None, merge: Merge = "crop") -> Layout:
    """Patches with an overlap, merged by `merge`, or seamless ones (None); `QsearchError` for impossible sizes."""
    return Layout(patch, 0, "seamless") if overlap is None else Layout(patch, overlap, merge)


def setting_of(params: Mapping[str, Any]) -> Setting:
    """The setting of a trial's parameters."""
    return Setting(
        params["patch"],
        params["overlap"],
        params["policy"],
        params.get("classes", 0),
        params["share"],
        params["high"],
        params["low"],
        params["ranges"] == OWN,
    )
