"""The walk-through of CONTRIBUTING.md works as printed."""

import re
from pathlib import Path

import torch

from qsearch.models.family import Family


def test_the_architecture_of_the_walk_through() -> None:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n(# qsearch/models/espcn\.py\n.*?)```", text, re.DOTALL)
    namespace: dict[str, object] = {"__name__": "espcn"}
    exec(code, namespace)
    family = namespace["FAMILY"]
    assert isinstance(family, Family)
    module = family.build(**(family.parse("espcn_f8_x2") or {}))
    renames = {"first": "conv1", "second": "conv2", "last": "conv3"}
    published = {re.sub(r"^\w+", lambda m: renames[m[0]], key): value for key, value in module.state_dict().items()}
    translated = family.translate(published)
    assert translated is not None
    again = family.build(**family.hyperparameters(translated))
    again.load_state_dict(translated)
    image = torch.rand(1, 3, 6, 7)
    torch.testing.assert_close(again(image), module(image), rtol=0, atol=0)
