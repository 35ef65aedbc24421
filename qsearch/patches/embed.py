"""The C data of a network for patches: how images are split, what its levels are, and what decides among them."""

from collections.abc import Mapping, Sequence

from qsearch.compile.joined import Joined
from qsearch.compile.plan import OUTPUT, Plan
from qsearch.patches.assign import parts_of
from qsearch.patches.clusters import Clustering
from qsearch.patches.embed_refer import ReferTables, table
from qsearch.patches.embed_seamless import SEAMLESS, step_levels
from qsearch.patches.rule import EdgeRule
from qsearch.patches.split import Layout

CLASSIFIER = "classifier"
"""Its name among the networks of an executable."""


class PatchTraversal:
    """Images patch by patch, each at the level that the policy decides; see `glue.Traversal`."""

    header = "patches.h"
    main_defines: tuple[str, ...] = ("QS_PATCHED",)

    def __init__(
        self,
        layout: Layout,
        policy: EdgeRule | Clustering,
        levels: Sequence[str],
        joined: Joined,
        refer: ReferTables | None = None,
    ) -> None:
        self.layout, self.policy, self.levels, self.joined = layout, policy, tuple(levels), joined
        self.refer = refer
        apart = refer is None and not layout.seamless
        self.files: tuple[str, ...] = ("pieces", "tiles", "split", "patches") if apart else ("split", "patches")
        # What RefER and seamless patches do outside the kernels takes longer when it is compiled for size.
        self.options: tuple[str, ...] = () if apart else ("-O2",)

    def values(self) -> Mapping[str, object]:
        """See `glue.Traversal.values`."""
        stages, levels = 3 + len(self.levels), len(self.levels)
        if self.refer:
            return {"levels": levels, "stages": stages + 3, "refer": ", then RefER's matching, warp and fusion"} | {
                "tile": "With RefER a patch\n * runs in one piece: tile is 0, or at least a patch's side."
            }
        return {"levels": levels, "stages": stages, "refer": ""} | {
            "tile": f"tile is the side of the largest {'tile' if self.layout.seamless else 'piece of a patch'}\n"
            " * in input pixels, 0 chooses it by the memory limit. The bytes do not depend on it."
        }

    def declarations(self, plan: Plan) -> list[str]:
        """See `glue.Traversal.declarations`."""
        names = table(f'"{level}"' for level in self.levels)  # of characters that need no escapes
        lines = [
            f"#define QS_PATCH {self.layout.patch}",
            f"#define QS_OVERLAP {self.layout.overlap}",
            f"#define QS_AVERAGE {int(self.layout.merge == 'average')}",
            f"#define QS_SEAMLESS {int(self.layout.seamless)}",
            f"#define QS_NUM_LEVELS {len(self.levels)}",
            f"static const char *const qs_level_names[] = {names};",
        ]
        # With RefER the other level is in segments.
        networks = self.levels[:1] if self.refer else (SEAMLESS,) if self.layout.seamless else self.levels
        steps = (table(self.joined.steps[network]) for network in networks)
        lines.append(f"static const int16_t qs_level_steps[][2] = {table(steps)};")
        bodies = "refer" if self.refer else "seamless" if self.layout.seamless else "levels"
        lines.append(f'#define QS_BODIES_OF "{bodies}.c"')
        lines += step_levels(plan) if self.layout.seamless else []
        lines += self.refer.declarations(plan) if self.refer else []
        if isinstance(self.policy, Clustering):
            return [*lines, '#define QS_POLICY "clusters.c"', *self._clusters(self.policy, plan)]
        # C has no empty arrays; without levels to choose among none is read.
        thresholds = table(f"INT64_C({value})" for value in self.policy.thresholds or (0,))
        lines.append(f"#define QS_RELATIVE {int(self.policy.relative)}")
        return [*lines, '#define QS_POLICY "edges.c"', f"static const int64_t qs_thresholds[] = {thresholds};"]

    def _clusters(self, policy: Clustering, plan: Plan) -> list[str]:
        tensors = {name: value.numpy() for name, value in policy.classifier.tensors.items()}
        weights, biases, powers = (tensors[name] for name in ("linear.weight", "linear.bias", "exp"))
        first, end = self.joined.steps[CLASSIFIER]
        defines = {
            "QS_CLASSES": len(weights),
            "QS_FEATURES": self.joined.index(CLASSIFIER, OUTPUT),
            "QS_FEATURE_CHANNELS": weights.shape[1],
            "QS_CLASSIFIER_FIRST": first,
            "QS_CLASSIFIER_END": end,
            "QS_CLASS_FACTOR": float(tensors["linear.factor"]).hex(),
            "QS_NUM_POWERS": len(powers),
            "QS_READING_B": int(policy.reading == "B"),
            "QS_SHARE": f"INT64_C({0 if policy.share is None else parts_of(policy.share)})",
        }
        return [
            *(f"#define {name} {value}" for name, value in defines.items()),
            f"static const int8_t qs_class_weights[][QS_FEATURE_CHANNELS] = {table(map(table, weights))};",
            f"static const int64_t qs_class_biases[] = {table(biases)};",
            f"static const int32_t qs_powers[] = {table(powers)};",
        ]
