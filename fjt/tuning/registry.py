"""All tuning methods by name, in the order in which their hooks enter the encoder."""

from fjt.tuning import bottleneck, low_rank, prompts, selective
from fjt.tuning.method import Method

# IA3 scales the sum that LoRA has added to, so it follows LoRA.
METHODS: dict[str, Method] = selective.METHODS | low_rank.METHODS | bottleneck.METHODS | prompts.METHODS
