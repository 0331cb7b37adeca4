"""Figures with sliders, which compute in the page and in JupyterLab, without a server.

Each figure is a module with a function ``chart``, which describes it in Vega-Lite; ``show`` puts
it into a notebook::

    from bn_tutorial.book.interactive import both_modes, show

    show(both_modes.chart())

The arithmetic is written out once more, in Vega's expressions: the tests hold it to the package.
"""

from . import averaged_signal, both_modes, lagging_averages, sigmoid_unit
from .toolkit import show

__all__ = ["averaged_signal", "both_modes", "lagging_averages", "show", "sigmoid_unit"]
