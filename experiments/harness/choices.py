"""Names that flags and tables share; defines no flag, so that any program may import it."""

_ON_GAMMA = [
  *("strict", "none", "equality", "inequality", "resilient", "ridge"),
  *("one_sided", "published_resilient"),
]
FUNCTIONAL = ["functional", "functional_resilient"]
WEIGHTED = ["remul", "gap_penalty"]
"""Rules that weigh a second loss, by a constant or by GradNorm."""
PRESCRIBED = ["schedule", "swing", "random_homotopy"]
"""Rules under which nobody learns gamma."""
PROJECTION_ALONE = {"strict", "schedule", "random_homotopy"}
"""Constraints whose predictor is the projection."""
PRUNED = {*_ON_GAMMA, *PRESCRIBED} - {"strict"}
"""Constraints that train f_eq by way of gamma, so that a finish without it has a meaning."""
CONSTRAINTS = [*_ON_GAMMA, *PRESCRIBED, *WEIGHTED, "augment", *FUNCTIONAL]
PLAIN_MODELS = {"mpnn", "transformer"}
"""Models without any equivariant part, and so without gamma."""
SIZES = {"relaxation_features": ("mlp", "spectral_mlp"), "rank": ("low_rank",)}
"""Sizes of branches, and the branches that have them."""
