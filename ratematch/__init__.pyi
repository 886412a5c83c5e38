"""Types of the public API, which is loaded when first used."""

from ratematch.frames import LoadedResults as LoadedResults
from ratematch.frames import changes as changes
from ratematch.frames import compare as compare
from ratematch.frames import drift as drift
from ratematch.frames import fronts as fronts
from ratematch.frames import gaps as gaps
from ratematch.frames import load_results as load_results
from ratematch.frames import match_results as match_results
from ratematch.frames import plot_compare as plot_compare
from ratematch.frames import plot_ctx as plot_ctx
from ratematch.frames import plot_figure as plot_figure
from ratematch.frames import plot_gap as plot_gap
from ratematch.frames import plot_gen as plot_gen
from ratematch.frames import plot_latency as plot_latency
from ratematch.frames import plot_pareto as plot_pareto
from ratematch.frames import plot_slip as plot_slip
from ratematch.frames import plot_speedup as plot_speedup
from ratematch.frames import plot_split as plot_split
from ratematch.frames import points as points
from ratematch.frames import recommendations as recommendations
from ratematch.frames import speedups as speedups

__version__: str
