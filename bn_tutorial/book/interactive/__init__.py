"""Figures with sliders, which compute in the page and in JupyterLab, without a server.

One module a figure, each with a function `chart` that describes it in Vega-Lite; `show` puts it
into a notebook. The arithmetic is written out once more, in Vega's expressions: the tests hold it
to the package.
"""

from . import averaged_signal, both_modes, sigmoid_unit
from .toolkit import show

__all__ = ["averaged_signal", "both_modes", "show", "sigmoid_unit"]
