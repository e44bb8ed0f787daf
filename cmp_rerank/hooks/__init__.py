"""What touches a model for a while and leaves no trace: hooks, masks, dropout, checkpointing."""
