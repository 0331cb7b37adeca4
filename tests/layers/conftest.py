"""Every way that the layer may take, on inputs of any size."""

from dataclasses import replace

import pytest
from layer_cases import PATHS

from bn_tutorial.layers import _dispatch


@pytest.fixture
def take(monkeypatch):
    """Send what follows down one path."""
    found = _dispatch.circumstances_of

    def take_path(name):
        monkeypatch.setattr(
            _dispatch, "circumstances_of", lambda *given: replace(found(*given), **PATHS[name])
        )

    return take_path
