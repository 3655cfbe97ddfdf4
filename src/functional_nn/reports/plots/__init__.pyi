from .sweep import plot_curves as plot_curves
from .sweep import plot_heat_map as plot_heat_map
from .sweep import plot_spread as plot_spread
