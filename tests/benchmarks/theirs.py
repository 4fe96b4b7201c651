"""The other library's side of `tests.benchmarks.conformance`: peft, or adapters in an environment of its own.

    python tests/benchmarks/theirs.py peft|adapters FOLDER

FOLDER/spec.json lists cases, FOLDER/inputs.npz the texts, FOLDER/base the model.  For each case it loads what fjt
wrote (ours/<case>), and makes an adapter of its own, saves it (theirs/<case>) and trains on.  Without fjt and JAX.
"""

import json
import pathlib
import sys
import warnings

import numpy as np
import safetensors.torch
import torch
import transformers


class Peft:
    """peft: its config class and arguments come from the case."""

    def __init__(self):
        import peft

        self.library = peft

    def load(self, model, folder, case):
        return self.library.PeftModel.from_pretrained(model, folder)

    def make(self, model, case):
        task = {"classification": "SEQ_CLS", "tagging": "TOKEN_CLS"}.get(case["kind"])
        # peft's own class for questions hands no token types to its model, so that the plain one is taken.
        more = {} if task else {"modules_to_save": ["qa_outputs"]}
        config = getattr(self.library, case["class"])(task_type=task, **case["arguments"], **more)
        return self.library.get_peft_model(model, config)

    def save(self, model, folder, case):
        model.save_pretrained(folder)


class Adapters:
    """adapters: the same."""

    def __init__(self):
        import adapters

        self.library = adapters

    def load(self, model, folder, case):
        self.library.init(model)
        name = model.load_adapter(str(folder), with_head=True, use_safetensors=True)
        model.set_active_adapters(name)
        return model

    def make(self, model, case):
        self.library.init(model)
        model.add_adapter("theirs", config=self._config(case["class"], case["arguments"]))
        model.train_adapter("theirs")
        model.set_active_adapters("theirs")
        return model

    def _config(self, kind, arguments):
        """Of a union, each argument is [class, arguments]."""
        parts = {k: self._config(*v) if isinstance(v, list) else v for k, v in arguments.items()}
        return getattr(self.library, kind)(**parts)

    def save(self, model, folder, case):
        # The shared tensors of a prefix cannot be saved as safetensors.
        prefix = case["class"] in ("PrefixTuningConfig", "MAMConfig", "UniPELTConfig")
        model.save_adapter(str(folder), "theirs", with_head=True, use_safetensors=not prefix)
        if prefix:
            state = {k: v.clone() for k, v in model.state_dict().items()}
            for file, word in (("adapter", ".theirs."), ("model_head", HEADS[case["kind"]])):
                own = {k: v for k, v in state.items() if word in k and ".pool." not in k}
                safetensors.torch.save_file(own, folder / f"{file}.safetensors")


HEADS = {"classification": "classifier.", "tagging": "classifier.", "question_answering": "qa_outputs."}
CLASSES = {"classification": "SequenceClassification", "tagging": "TokenClassification",
           "question_answering": "QuestionAnswering"}  # fmt: skip


def main(library, folder):
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    folder, side = pathlib.Path(folder), {"peft": Peft, "adapters": Adapters}[library]()
    spec, arrays = json.loads((folder / "spec.json").read_text()), np.load(folder / "inputs.npz")
    inputs = {name: torch.tensor(arrays[name]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    labels, found = {kind: torch.tensor(arrays[kind]) for kind in CLASSES}, {}
    for name, case in spec["cases"].items():
        kind, mask = case["kind"], inputs["attention_mask"] > 0
        mask = labels[kind] >= 0 if kind == "tagging" else mask
        model = side.load(base(folder, kind), folder / "ours" / name, case).eval()
        every, alone = torch.arange(len(mask)), case["alone"]

        def all_logits(model, every=every, alone=alone, kind=kind, mask=mask):
            with torch.no_grad():
                values = logits(model, inputs, every, alone)
            return (values if kind == "classification" else values[:, -mask.shape[1] :][mask]).numpy()

        found[f"{name}/ours"] = all_logits(model)
        torch.manual_seed(3)
        model = side.make(base(folder, kind), case).eval()  # eval: without dropout, in training as well
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with torch.no_grad():
            for parameter in trained:
                parameter.add_(spec["shake"] * torch.randn_like(parameter))
        found[f"{name}/theirs"] = all_logits(model)
        (folder / "theirs" / name).mkdir(parents=True)
        side.save(model, folder / "theirs" / name, case)
        optimizer, losses = torch.optim.AdamW(trained, lr=case["rate"], weight_decay=0.0), []
        for rows in torch.tensor(arrays["batches"]):
            optimizer.zero_grad()
            loss = loss_of(kind, logits(model, inputs, rows, alone), labels[kind][rows], mask[rows])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            losses.append(loss.item())
        found[f"{name}/losses"] = np.array(losses)
        print(f"{library} {name}", flush=True)
    np.savez(folder / "theirs.npz", **found)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, library: side.library.__version__}
    (folder / "versions.json").write_text(json.dumps(versions))


def loss_of(kind, values, labels, mask):
    """The mean cross-entropy of rows, of their tags, or of the first and last tokens of their answers."""
    if kind == "classification":
        return torch.nn.functional.cross_entropy(values, labels)
    if kind == "tagging":
        return torch.nn.functional.cross_entropy(values[:, -mask.shape[1] :][mask], labels[mask])  # without prompts
    values = values.masked_fill(~mask[..., None], -torch.inf)
    return sum(torch.nn.functional.cross_entropy(values[..., i], labels[:, i]) for i in range(2)) / 2


def logits(model, inputs, rows, alone):
    """Of rows of the padded inputs; alone: each by itself, without padding, over which gates average as well."""
    if not alone:
        found = model(**{key: x[rows] for key, x in inputs.items()})
        return found.logits if "logits" in found else torch.stack([found.start_logits, found.end_logits], dim=-1)
    lengths = inputs["attention_mask"].sum(dim=1)
    return torch.cat([model(**{key: x[i : i + 1, : lengths[i]] for key, x in inputs.items()}).logits for i in rows])


def base(folder, kind):
    return getattr(transformers, f"AutoModelFor{CLASSES[kind]}").from_pretrained(folder / "base" / kind)


if __name__ == "__main__":
    main(*sys.argv[1:])
