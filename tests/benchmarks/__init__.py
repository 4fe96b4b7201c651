"""fjt against Hugging Face's Trainer on the same weights and data: commands whose records are committed."""
