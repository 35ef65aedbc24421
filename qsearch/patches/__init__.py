"""Per-patch bits: representative patches of an image get many bits and the rest few, decided from the image itself.

After RefQSR (Lee, Yoo and Jung, 2024), whose method is the subject of the patent application US 2024/0420451 A1.
"""

from qsearch.patches.artefact import build_patch_artefact
from qsearch.patches.assign import Clusters, assign, with_random_references
from qsearch.patches.classifier import Classifier
from qsearch.patches.clustblock import ClustBlock, train_clustblock, training_patches
from qsearch.patches.clusters import Clustering, RandomReferences, as_decisions
from qsearch.patches.curve import CurvePoint, PatchBank, bitops_at, static_point
from qsearch.patches.decisions import Constant, Decisions, Policy
from qsearch.patches.deployed import DeployedRefER
from qsearch.patches.draw import draw_bits
from qsearch.patches.execute import (
    Level,
    PatchNetwork,
    PatchPrograms,
    levels_of,
    patch_bitops,
)
from qsearch.patches.latency import PatchTimer
from qsearch.patches.patched import Patched, PatchReport, PatchResult
from qsearch.patches.ranges import OwnRanges, PatchStatistics
from qsearch.patches.refer import RefER
from qsearch.patches.refer_training import ReferSettings, train_referenced
from qsearch.patches.referenced import ReferencedTwin, referenced_upscaler
from qsearch.patches.referenced_network import ReferencedNetwork, ReferencedProgram
from qsearch.patches.rule import EdgeRule, edge_score
from qsearch.patches.scoring import PatchScorer
from qsearch.patches.seams import seam_excess
from qsearch.patches.search import PatchPoint, run_patch_search
from qsearch.patches.setting import PatchSpace, Setting, Whole
from qsearch.patches.split import Layout, gather, merge, overwork
from qsearch.patches.stored import StoredPatches
from qsearch.patches.stored_level import StoredLevel

__all__ = [
    "Classifier",
    "ClustBlock",
    "Clustering",
    "Clusters",
    "Constant",
    "CurvePoint",
    "Decisions",
    "DeployedRefER",
    "EdgeRule",
    "Layout",
    "Level",
    "OwnRanges",
    "PatchBank",
    "PatchNetwork",
    "PatchPoint",
    "PatchPrograms",
    "PatchReport",
    "PatchResult",
    "PatchScorer",
    "PatchSpace",
    "PatchStatistics",
    "PatchTimer",
    "Patched",
    "Policy",
    "RandomReferences",
    "RefER",
    "ReferSettings",
    "ReferencedNetwork",
    "ReferencedProgram",
    "ReferencedTwin",
    "Setting",
    "StoredLevel",
    "StoredPatches",
    "Whole",
    "as_decisions",
    "assign",
    "bitops_at",
    "build_patch_artefact",
    "draw_bits",
    "edge_score",
    "gather",
    "levels_of",
    "merge",
    "overwork",
    "patch_bitops",
    "referenced_upscaler",
    "run_patch_search",
    "seam_excess",
    "static_point",
    "train_clustblock",
    "train_referenced",
    "training_patches",
    "with_random_references",
]
