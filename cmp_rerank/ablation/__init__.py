"""What a step of an ablation takes away: context (CmpCrop) and neurons (CmpDrop)."""
