"""Fine-tune rerankers and readers with comparative loss, and measure whether it helped."""
