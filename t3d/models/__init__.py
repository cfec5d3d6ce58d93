"""Models. Importing this package tells transformers' Auto classes what `sdar`, `a2d-qwen3` and `a2d-qwen2` are."""

from t3d.models import folder as folder
