"""The artefact of a configuration of patches: an ordinary one, whose executable decides and merges by itself.

The network is in it once for every level, with its own parameters; levels share the kernels that they have in common.
With RefER the last level is in segments, and RefER's fusions are networks of their own. Seamless levels are one
network, whose steps have levels.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from qsearch.compile import code_budget, kernels, plan, tuning
from qsearch.compile.artefact import artefact_folder, check_sizes, compile_plan, interface_of, seal
from qsearch.compile.golden import golden_image
from qsearch.compile.joined import Joined, join
from qsearch.compile.memory import check_tile_bytes, check_tile_memory, smallest_tile, tile_bytes
from qsearch.compile.plan import Plan
from qsearch.errors import QsearchError
from qsearch.patches.clusters import Clustering
from qsearch.patches.embed import CLASSIFIER, PatchTraversal
from qsearch.patches.embed_refer import ReferTables, fusion_network, segment_network
from qsearch.patches.embed_seamless import SEAMLESS, named_steps, seamless_tile_bytes
from qsearch.patches.stored import StoredPatches
from qsearch.target import Target


def build_patch_artefact(
    patches: StoredPatches,
    folder: Path | str,
    target: Target,
    *,
    name: str,
    golden: NDArray[np.uint8] | None = None,
    choose: kernels.Choose | None = None,
) -> Path:
    """Compile a configuration of patches for `target` and write the artefact to the new folder `folder`.

    Its bytes and decisions are those of `patches.reference`; the folder can be loaded as `patches` again. Arguments,
    promises and errors are those of `build_artefact`. Raises `QsearchError` for a target with a GPU.
    """
    if target.gpu:
        raise QsearchError(f"patches run on processors only: {target.name} is a GPU")
    draft = _networks(patches, target, None)
    check_sizes(draft.joined.plan)
    interface = interface_of(draft.joined.plan, name, target)
    side, smallest = patches.layout.patch, smallest_tile(draft.plan)
    if patches.repairs:
        check_tile_memory(draft.plan, (side, side), interface.memory_limit_bytes, target.name)
    if patches.program is not None:
        needed = seamless_tile_bytes(draft.joined, side, *smallest, target.threads)
        check_tile_bytes(needed, smallest, interface.memory_limit_bytes, target.name)
    image = golden_image(draft.plan.minimum_size(), (side + side // 4, 2 * side)) if golden is None else golden
    with artefact_folder(folder) as staging:
        built = _networks(patches, target, choose or tuning.for_target(target))
        levels = [level.name for level in patches.levels]
        traversal = PatchTraversal(patches.layout, patches.policy, levels, built.joined, built.refer)
        compile_plan(built.plan, interface, target, staging, traversal)
        patches.write(staging)
        more: dict[str, Any] = {"levels": levels}
        if patches.program is not None:
            more |= {"smallest_tile_bytes": seamless_tile_bytes(built.joined, side, *smallest, target.threads)}
        if patches.repairs:
            more |= {"refer": len(patches.repairs), "smallest_tile_bytes": tile_bytes(built.plan, side, side)}
        seal(staging, built.plan, interface, target, image, patches.model, patches.score.get("psnr"), more)
    return Path(folder)


@dataclass(frozen=True)
class _Networks:
    """All networks of an executable."""

    joined: Joined
    refer: ReferTables | None
    plan: Plan
    """The joined one with all parameters."""


def _networks(patches: StoredPatches, target: Target, choose: kernels.Choose | None) -> _Networks:
    """All networks of the executable; without `choose` in forms that need no compiler to be chosen."""
    programs = _programs(patches)
    plans: dict[str, Plan] = {}
    for name, program in programs.items():
        if choose is None:
            plans[name] = plan.build(program, target.isa)
        else:
            # As much for every level as where levels are networks of their own.
            levels = len(patches.levels) if patches.program is not None else 1
            budget = levels * code_budget.kernel_bytes(target.arch)
            plans[name] = code_budget.build(program, target.isa, target.arch, choose, budget)
    if isinstance(patches.policy, Clustering):
        classifier = patches.policy.classifier.program()
        plans[CLASSIFIER] = plan.build(classifier, target.isa, choose, shrinks=True)
    high, low = patches.levels[0], patches.levels[-1]
    if patches.program is not None:
        joined = named_steps(join(plans, inner=(CLASSIFIER,)), [level.name for level in patches.levels])
        return _Networks(joined, None, joined.plan)
    if not patches.repairs:
        joined = join(plans, inner=(CLASSIFIER,))
        return _Networks(joined, None, joined.plan)
    last = segment_network(low.name, len(patches.repairs))
    joined = join(plans, inner=plans.keys() - {high.name, last})
    refer = ReferTables(joined, plans, (high.name, high.segments[0]), (low.name, low.segments), patches.repairs)
    # What a patch gives depends on all of it.
    whole = replace(joined.plan, params={**joined.plan.params, **refer.params}, halo=patches.layout.patch)
    return _Networks(joined, refer, whole)


def _programs(patches: StoredPatches) -> dict[str, GraphModule]:
    """The integer programs of all levels and of RefER, by their names in the executable."""
    if patches.program is not None:
        return {SEAMLESS: patches.program}
    found: dict[str, GraphModule] = {}
    for level in patches.levels:
        whole = len(level.segments) == 1
        for index, segment in enumerate(level.segments):
            found[level.name if whole else segment_network(level.name, index)] = segment.module
    for index, repair in enumerate(patches.repairs):
        found[fusion_network(index)] = repair.refer.fusion.segment.module
    return found
