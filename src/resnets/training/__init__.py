"""Train networks: recipes, the trainer, optimizers, checkpoints, several ranks."""
