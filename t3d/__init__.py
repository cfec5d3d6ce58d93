"""T3D: few-step diffusion language models by trajectory self-distillation."""
