"""What a recipe chooses before anything is quantized: nodes, types, and what `auto` becomes."""
