"""The keys of AdapterHub's config of each architecture (adapters 1.3): types, and the values that fjt computes.

Which values tell one method from another is in its row, `fjt.tuning.forms.HubForm`.
"""

from fjt.core import declared
from fjt.core.declared import either, fixed, flag, ignored, number, one_of, optional, text, texts, unset
from fjt.core.declared import whole as integer

LEFT_OUT = "A method is in all layers here."
BOTTLENECK = dict.fromkeys(
    (
        "mh_adapter",
        "output_adapter",
        "is_parallel",
        "phm_layer",
        "original_ln_before",
        "original_ln_after",
        "adapter_residual_before_ln",
        "ln_before",
        "ln_after",
        "cross_adapter",
        "use_gating",
        "factorized_phm_W",
        "factorized_phm_rule",
        "phm_bias",
        "shared_phm_rule",
        "shared_W_phm",
    ),
    flag(),
) | {
    "residual_before_ln": either(flag(), one_of("post_add")),
    "inv_adapter": unset("fjt has no invertible adapters of the embeddings."),
    "inv_adapter_reduction_factor": optional(number(0.0, 2**16)),
    "leave_out": unset(LEFT_OUT),
    "dropout": fixed(0.0),
    "stochastic_depth": optional(fixed(0.0)),
    "reduction_factor": either(number(1e-6, 2**16), declared.table()),
    "non_linearity": text(needed=True),
    "scaling": number(-1e6, 1e6),
    "phm_dim": integer(1, 2**16),
    "phm_rank": integer(1, 2**16),
    "hypercomplex_nonlinearity": ignored(),  # these four are of the start and of training
    "learn_phm": ignored(),
    "phm_c_init": ignored(),
    "phm_init_range": ignored(),
}
LORA = {
    "attn_matrices": texts(),
    "selfattn_lora": flag(),
    "intermediate_lora": flag(),
    "output_lora": flag(),
    "leave_out": unset(LEFT_OUT),
    "r": integer(1, 2**16, needed=True),
    "alpha": number(0.0, 1e6, needed=True),
    "dropout": number(0.0, 0.99),
    "use_gating": flag(),
    "composition_mode": one_of("add", "scale"),
    "use_dora": flag(),
    "vera_d": optional(number(-1e6, 1e6)),
    "vera_b": optional(number(-1e6, 1e6)),
    "dtype": ignored(),
}
PREFIX = {
    "encoder_prefix": flag(),
    "cross_prefix": flag(),
    "leave_out": unset(LEFT_OUT),
    "flat": flag(),
    "prefix_length": integer(1, 2**20, needed=True),
    "bottleneck_size": integer(1, 2**20),
    "non_linearity": text(),
    "dropout": fixed(0.0),
    "use_gating": flag(),
    "shared_gating": flag(),
}
