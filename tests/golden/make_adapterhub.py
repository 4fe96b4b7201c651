"""The golden files of AdapterHub's format: a tiny BERT or RoBERTa, adapters by `adapters`, and what they give.

    python tests/golden/make_adapterhub.py tests/golden/adapterhub bert
    python tests/golden/make_adapterhub.py tests/golden/adapterhub_roberta roberta

It needs an environment of its own: adapters 1.3.0, transformers 4.57.6, torch 2.13.0, on CPU.  `adapters` cannot save
a prefix as safetensors (its tensors are shared), so the shared tensors are written once, under their own names.
"""

import json
import pathlib
import shutil
import sys

import adapters
import safetensors.torch
import torch
import transformers

CONFIGS = {
    "pfeiffer": adapters.SeqBnConfig(reduction_factor=8),
    "houlsby": adapters.DoubleSeqBnConfig(reduction_factor=8),
    "parallel": adapters.ParBnConfig(reduction_factor=8),
    "compacter": adapters.CompacterConfig(reduction_factor=4),
    "lora": adapters.LoRAConfig(r=4, alpha=8, intermediate_lora=True, output_lora=True),
    "ia3": adapters.IA3Config(),
    "prefix": adapters.PrefixTuningConfig(prefix_length=3, flat=True),
    "prefix_projected": adapters.PrefixTuningConfig(prefix_length=3, flat=False, bottleneck_size=8),
    "pfeiffer_gated": adapters.SeqBnConfig(reduction_factor=8, use_gating=True),
    "lora_gated": adapters.LoRAConfig(r=4, alpha=8, intermediate_lora=True, output_lora=True, use_gating=True),
    "prefix_gated": adapters.PrefixTuningConfig(prefix_length=3, flat=False, bottleneck_size=8, use_gating=True),
    "mam": adapters.ConfigUnion(
        adapters.PrefixTuningConfig(prefix_length=3, flat=True), adapters.ParBnConfig(reduction_factor=8)
    ),
    "unipelt": adapters.UniPELTConfig(
        adapters.PrefixTuningConfig(prefix_length=3, flat=True), adapters.SeqBnConfig(reduction_factor=8),
        adapters.LoRAConfig(r=4, alpha=8),
    ),
    "houlsby_normed": adapters.DoubleSeqBnConfig(reduction_factor=8, original_ln_before=True),
    "pfeiffer_plain": adapters.SeqBnConfig(reduction_factor=8, original_ln_before=False),
}  # fmt: skip
PREFIXED = ("prefix", "mam", "unipelt")
LENGTHS = (9, 5, 12, 3)
SHAPE = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "initializer_range": 0.2, "num_labels": 2,
}  # fmt: skip
# By family: its config, and the cases; RoBERTa's are those whose files hold the family's names.
FAMILIES = {
    "bert": (transformers.BertConfig(max_position_embeddings=24, **SHAPE), tuple(CONFIGS)),
    "roberta": (
        transformers.RobertaConfig(max_position_embeddings=26, type_vocab_size=1, layer_norm_eps=1e-5, **SHAPE),
        ("pfeiffer", "lora", "compacter", "prefix"),
    ),
}


def inputs(padding):
    """Padded token ids and attention mask of four texts."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 50, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    return {"input_ids": torch.where(mask, ids, padding), "attention_mask": mask.long()}


def main(folder, family):
    folder, (base, cases) = pathlib.Path(folder), FAMILIES[family]
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    automatic = transformers.AutoModelForSequenceClassification
    automatic.from_config(base).eval().save_pretrained(folder / "base")
    batch, facts = inputs(base.pad_token_id), {"lengths": LENGTHS, "logits": {}}
    facts["input_ids"] = batch["input_ids"].tolist()
    for name in cases:
        config = CONFIGS[name]
        model = automatic.from_pretrained(folder / "base").eval()
        adapters.init(model)
        model.add_adapter(name, config=config)
        model.train_adapter(name)
        model.set_active_adapters(name)
        model.eval()
        torch.manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
            # One by one, unpadded: the gates there average over padding as well.
            texts = [row[:length][None] for row, length in zip(batch["input_ids"], LENGTHS, strict=True)]
            gated = name.endswith("_gated") or name == "unipelt"
            found = torch.cat([model(text).logits for text in texts]) if gated else model(**batch).logits
            facts["logits"][name] = found.tolist()
        prefix = name.startswith(PREFIXED)
        model.save_adapter(folder / name, name, with_head=True, use_safetensors=not prefix)
        if prefix:
            for file in (folder / name).glob("*.bin"):
                file.unlink()
            state = {k: v.clone() for k, v in model.state_dict().items()}
            own = {k: v for k, v in state.items() if f".{name}." in k and ".pool." not in k}
            head = {k: v for k, v in state.items() if k.startswith("classifier.")}
            safetensors.torch.save_file(own, folder / name / "adapter.safetensors")
            safetensors.torch.save_file(head, folder / name / "model_head.safetensors")
    facts["versions"] = {
        "adapters": adapters.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
