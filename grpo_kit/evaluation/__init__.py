"""Whether the trained model is better: evaluated, compared and interpreted."""
