"""The artefact of a configuration of patches: an ordinary one, whose executable decides and merges by itself.

The network is in it once for every level, with its own parameters; levels share the kernels that they have in common.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch.compile import code_budget, kernels, plan, tuning
from qsearch.compile.artefact import artefact_folder, check_sizes, compile_plan, interface_of, seal
from qsearch.compile.golden import golden_image
from qsearch.compile.joined import Joined, join
from qsearch.compile.plan import Plan
from qsearch.errors import QsearchError
from qsearch.patches.clusters import Clustering
from qsearch.patches.embed import CLASSIFIER, PatchTraversal
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
    draft = _joined(patches, target, None).plan
    check_sizes(draft)
    interface = interface_of(draft, name, target)
    side = patches.layout.patch
    image = golden_image(draft.minimum_size(), (side + side // 4, 2 * side)) if golden is None else golden
    with artefact_folder(folder) as staging:
        joined = _joined(patches, target, choose or tuning.for_target(target))
        levels = [level.name for level in patches.levels]
        traversal = PatchTraversal(patches.layout, patches.policy, levels, joined)
        compile_plan(joined.plan, interface, target, staging, traversal)
        patches.write(staging)
        psnr = patches.score.get("psnr")
        seal(staging, joined.plan, interface, target, image, patches.model, psnr, {"levels": levels})
    return Path(folder)


def _joined(patches: StoredPatches, target: Target, choose: kernels.Choose | None) -> Joined:
    """All networks of the executable; without `choose` in forms that need no compiler to be chosen."""
    networks: dict[str, Plan] = {}
    for level in patches.levels:
        if choose is None:
            networks[level.name] = plan.build(level.segments[0].module, target.isa)
        else:
            networks[level.name] = code_budget.build(level.segments[0].module, target.isa, target.arch, choose)
    if isinstance(patches.policy, Clustering):
        classifier = patches.policy.classifier.program()
        networks[CLASSIFIER] = plan.build(classifier, target.isa, choose, shrinks=True)
    return join(networks, inner=(CLASSIFIER,))
