"""The loops of a control-flow graph."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Loop:
    """A loop: its entry, the loops directly inside it, and all its nodes."""

    header: int
    inner: "tuple[Loop, ...]"
    all: frozenset[int]

    @property
    def own(self) -> frozenset[int]:
        """The nodes that no inner loop has."""
        return self.all - frozenset[int]().union(*(loop.all for loop in self.inner))


def loop_forest(edges: Sequence[Sequence[int]]) -> tuple[Loop, ...]:
    """The outermost loops of a graph; `edges` lists the successors of every node, and node order is execution order."""
    return _loops(frozenset(range(len(edges))), edges)


def _loops(nodes: frozenset[int], edges: Sequence[Sequence[int]]) -> tuple[Loop, ...]:
    found = []
    for component in _components(nodes, edges):
        node = next(iter(component))
        if len(component) == 1 and node not in edges[node]:
            continue
        outside = (n for n in range(len(edges)) if n not in component)
        entered = {target for source in outside for target in edges[source] if target in component}
        # Without the jumps back to its entry, what still goes in circles is an inner loop.
        header = min(entered or component)
        rest = [[target for target in targets if target != header] for targets in edges]
        found.append(Loop(header, _loops(component, rest), component))
    return tuple(found)


def _components(nodes: frozenset[int], edges: Sequence[Sequence[int]]) -> list[frozenset[int]]:
    """Strongly connected components within `nodes` (Tarjan's algorithm, without recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    waiting: set[int] = set()
    found: list[frozenset[int]] = []
    for root in sorted(nodes):
        if root in index:
            continue
        work = [(root, iter([t for t in edges[root] if t in nodes]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        waiting.add(root)
        while work:
            node, targets = work[-1]
            target = next(targets, None)
            if target is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component: set[int] = set()
                    while node not in component:
                        component.add(stack.pop())
                    waiting -= component
                    found.append(frozenset(component))
            elif target not in index:
                index[target] = low[target] = len(index)
                stack.append(target)
                waiting.add(target)
                work.append((target, iter([t for t in edges[target] if t in nodes])))
            elif target in waiting:
                low[node] = min(low[node], index[target])
    return found
