"""A demo of seconds: three packages of the standard library, a random encoder, four steps of training."""

from __future__ import annotations

from cmp_rerank.demo.recipe import Recipe

RECIPE = Recipe(
    "tiny",
    packages=("email", "logging", "asyncio"),
    queries={"train": 16, "dev": 6, "test": 8},
    settings={
        "first_stage.depth": 4,
        "negatives.ranks": (1, 4),
        "negatives.negatives": 2,
        "model.max_length": 32,
        "training.use_cpu": True,
        "training.per_device_train_batch_size": 8,
        "training.num_train_epochs": 2,
        "training.save_strategy": "steps",
        "training.save_steps": 1,
        "training.logging_steps": 1,
        "training.learning_rate": 1e-3,
        "guard.repeats": 2,
    },
)
