"""Working memory of an artefact: what a tile of a network needs, as the runtime counts it."""

from qsearch.compile.plan import Plan
from qsearch.errors import QsearchError

_ALIGN, _SLACK = 64, 64
_IMAGE_CHANNELS = 3


def tile_bytes(plan: Plan, height: int, width: int) -> int:
    """Working memory in bytes of an image that runs in tiles of `height` × `width` input pixels."""
    arena = sum(_round_up(slot + _SLACK) for slot in plan.slot_bytes(height, width))
    pixels = height * width * _IMAGE_CHANNELS
    return max(arena, _ALIGN) + _round_up(pixels) + _round_up(pixels * plan.upscale**2)


def smallest_tile(plan: Plan) -> tuple[int, int]:
    """Height and width of the smallest tile of a larger image: one pixel that no artificial edge reaches."""
    height, width = (max(2 * plan.halo + 1, least) for least in plan.minimum_size())
    return height, width


def check_memory(plan: Plan, limit_bytes: int, target: str) -> None:
    """Raises `QsearchError` where not even the smallest tile fits in the working memory of `target`."""
    check_tile_memory(plan, smallest_tile(plan), limit_bytes, target)


def check_tile_memory(plan: Plan, size: tuple[int, int], limit_bytes: int, target: str) -> None:
    """The same for a smallest tile of `size` = (height, width)."""
    check_tile_bytes(tile_bytes(plan, *size), size, limit_bytes, target)


def check_tile_bytes(needed: int, size: tuple[int, int], limit_bytes: int, target: str) -> None:
    """The same where it is known what that tile needs."""
    if needed > limit_bytes:
        raise QsearchError(
            f"target {target} has {_mib(limit_bytes)} of working memory (limits.memory_bytes), and the smallest tile "
            f"of this network, {size[1]}x{size[0]} pixels, needs {_mib(needed)}: raise the limit or take a smaller "
            "network"
        )


def _round_up(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _mib(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
