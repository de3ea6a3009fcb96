"""Corrections: what is done to a float model, its ranges or its weights before they are quantized.

`adaround` and `bias_correction` come last and are no part of the table: they look at what the quantizer makes
of the rest.
"""

from app.domain import recipe
from worker.engine.corrections.equalization import equalization
from worker.engine.corrections.rounding import rounding
from worker.engine.corrections.smoothquant import smoothquant
from worker.engine.corrections.subject import Correction
from worker.engine.corrections.weight_clipping import weight_clipping

# In the order in which they are applied: first what moves sizes between tensors, then the grid of what that
# leaves, then the codes on that grid.
CORRECTIONS: dict[str, Correction] = {
    "equalization": equalization,
    "smoothquant": smoothquant,
    "weight_clipping": weight_clipping,
    "rounding": rounding,
}
# They rescale tensors and leave the function as it is.
MOVING: frozenset[recipe.Correction] = frozenset({"equalization", "smoothquant"})
