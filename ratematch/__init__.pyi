"""Types of the public API, which is loaded when first used."""

from ratematch.api import LoadedResults as LoadedResults
from ratematch.api import changes as changes
from ratematch.api import compare as compare
from ratematch.api import drift as drift
from ratematch.api import fronts as fronts
from ratematch.api import gaps as gaps
from ratematch.api import load_results as load_results
from ratematch.api import match_results as match_results
from ratematch.api import plot_compare as plot_compare
from ratematch.api import plot_ctx as plot_ctx
from ratematch.api import plot_figure as plot_figure
from ratematch.api import plot_gap as plot_gap
from ratematch.api import plot_gen as plot_gen
from ratematch.api import plot_latency as plot_latency
from ratematch.api import plot_pareto as plot_pareto
from ratematch.api import plot_slip as plot_slip
from ratematch.api import plot_speedup as plot_speedup
from ratematch.api import plot_split as plot_split
from ratematch.api import points as points
from ratematch.api import recommendations as recommendations
from ratematch.api import speedups as speedups

__version__: str
