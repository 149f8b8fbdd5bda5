"""The entries of the constraints and rival training rules, in their order in tables.

What makes a constraint is named as "module:name" and imported where a run begins: nothing here
imports JAX.
"""

from experiments.harness.constraint_entry import UNCONSTRAINED, Constant, Constraint, Length

_RHO = Constant(
  "rho",
  "Price of slack (resilient) or weight of the penalty (ridge).",
  default=1.0,
  domain="positive",
  gridded=True,
  nullable=True,
  shown="rivals",
)
_EPSILON = Constant(
  "epsilon",
  "Bound on abs(gamma) (inequality), or on the mean squared equivariance error (functional).",
  domain="not negative",
  gridded=True,
  nullable=True,
  shown="rivals",
)
_BETA = Constant(
  "beta",
  "Weight of the loss of moved samples (remul) or of the equivariance error (gap_penalty); 1 by "
  "default.",
  default=1.0,
  domain="positive",
  gridded=True,
  replaced_by=("weighting", "gradnorm"),
  nullable=True,
  shown="rivals",
)
_WEIGHTING = Constant(
  "weighting",
  "Weights of the two losses of remul and gap_penalty: 1 and --beta, or by GradNorm.",
  default="constant",
  kind=str,
  choices={"constant": "", "gradnorm": "GradNorm"},
  nullable=True,
  shown="rivals",
)
_SCHEDULE_EPOCHS = Constant(
  "schedule_epochs",
  "Length of the schedule; by default --epochs.",
  default=Length.CONSTRAINED,
  kind=int,
  argument="epochs",
  least=1,
  too_long="is longer than the run of {epochs} epochs, which would end with gamma above 0; lower "
  "it, or raise --epochs.",
  nullable=True,
  shown="never",
)
_HOMOTOPY_DRAW = Constant(
  "homotopy_draw",
  "random_homotopy draws one gamma for all layers (the default), or one a layer.",
  default="all",
  kind=str,
  choices={"all": "gamma of all layers", "layer": "gamma of each layer"},
  argument="draws",
)
_SWING = (
  Constant(
    "swing_amplitude",
    "What the swing's amplitude falls to; 0.4 by default.",
    default=0.4,
    argument="amplitude",
    domain="not negative",
    gridded=True,
    word="amplitude",
  ),
  Constant(
    "swing_period",
    "Steps of a whole swing of gamma; 2000 by default.",
    default=2000.0,
    argument="period",
    domain="positive",
    gridded=True,
    word="period",
  ),
  Constant(
    "swing_initial",
    "What it falls from; 1 by default.",
    default=1.0,
    argument="initial",
    domain="not negative",
    word="from",
    shown="changed",
  ),
  Constant(
    "swing_time_constant",
    "Steps in which the amplitude falls by a factor e; 900 by default.",
    default=900.0,
    argument="time_constant",
    domain="positive",
    gridded=True,
    word="time constant",
    shown="changed",
  ),
  Constant(
    "swing_phase",
    "Lead of each layer over the one before it, in periods; 0 by default.",
    default=0.0,
    argument="phase",
    domain="finite",
    gridded=True,
    word="phase",
    shown="changed",
  ),
  Constant(
    "swing_start",
    "Steps at gamma = 0 before the swing; 0 by default.",
    default=0,
    kind=int,
    argument="start",
    least=0,
    word="start",
    shown="changed",
  ),
  Constant(
    "swing_epochs",
    "Epochs by which the amplitude has also fallen to 0, as a line; by default it never does.",
    kind=int,
    argument="epochs",
    least=1,
    too_long="is longer than the {epochs} epochs that train gamma; lower it, or raise --epochs.",
    word="0 by epoch",
    shown="changed",
  ),
)
_EQUIVARIANT_L2 = Constant(
  "equivariant_l2",
  "Weight of the squared norm of all weights but the branches' (residual_pathway); 1e-6 by "
  "default.",
  default=1e-6,
  argument="equivariant",
  domain="not negative",
  gridded=True,
)
_FREE_L2 = Constant(
  "free_l2",
  "Weight of the squared norm of the branches' weights (residual_pathway); 1e-4 by default.",
  default=1e-4,
  argument="free",
  domain="not negative",
  gridded=True,
)
_PROJECTION_WEIGHT = Constant(
  "projection_weight",
  "Weight of the branches' squared distance to equivariant maps (projection_regulariser); 1e-3 by "
  "default.",
  default=1e-3,
  argument="weight",
  domain="not negative",
  gridded=True,
)
_ON_GAMMA, _ON_ERROR = "ace_jax.constraints.on_gamma", "ace_jax.constraints.on_error"
_BUILD = "experiments.harness.build"

ENTRIES = (
  Constraint("strict", UNCONSTRAINED, gamma="absent", predictor="projection"),
  Constraint("none", UNCONSTRAINED, predictor="relaxed"),
  Constraint("equality", f"{_ON_GAMMA}:Equality", multipliers=True),
  Constraint(
    "inequality",
    f"{_ON_GAMMA}:Inequality",
    (_EPSILON.at(0.1),),
    multipliers=True,
    quick={"relaxation_scale": "fixed"},
  ),
  Constraint(
    "resilient",
    f"{_ON_GAMMA}:Resilient",
    (_RHO,),
    multipliers=True,
    slack=True,
    quick={"relaxation_scale": "fixed"},
  ),
  Constraint("ridge", f"{_ON_GAMMA}:Ridge", (_RHO,)),
  Constraint("one_sided", f"{_ON_GAMMA}:OneSided", multipliers=True),
  Constraint("published_resilient", f"{_ON_GAMMA}:PublishedResilient", multipliers=True),
  Constraint(
    "schedule",
    f"{_BUILD}:schedule",
    (_SCHEDULE_EPOCHS,),
    takes=("symmetry", "axis_name", "steps_an_epoch"),
    gamma="prescribed",
    predictor="projection",
    branch="linear",
    branch_deviation=1e-4,  # as published: near 0
    irreps=True,
  ),
  Constraint(
    "residual_pathway",
    "ace_jax.constraints.on_weights:ResidualPathway",
    (_EQUIVARIANT_L2, _FREE_L2),
    gamma="prescribed",
    predictor="relaxed",
    penalises_weights=True,
  ),
  Constraint(
    "projection_regulariser",
    "ace_jax.constraints.on_weights:ProjectionRegulariser",
    (_PROJECTION_WEIGHT,),
    gamma="prescribed",
    predictor="relaxed",
    branch="linear",
    irreps=True,
  ),
  Constraint("swing", f"{_BUILD}:swing", _SWING, takes=("steps_an_epoch",), gamma="prescribed"),
  Constraint(
    "random_homotopy",
    "ace_jax.constraints.prescribed:RandomHomotopy",
    (_HOMOTOPY_DRAW,),
    takes=("axis_name",),
    gamma="prescribed",
    predictor="projection",
  ),
  Constraint(
    "remul",
    f"{_BUILD}:remul",
    (_BETA, _WEIGHTING),
    takes=("symmetry", "axis_name"),
    gamma="optional",
    predictor="relaxed",
  ),
  Constraint(
    "gap_penalty",
    f"{_BUILD}:gap_penalty",
    (_BETA, _WEIGHTING),
    takes=("symmetry", "axis_name"),
    gamma="optional",
    predictor="relaxed",
  ),
  Constraint(
    "augment",
    "ace_jax.constraints.rivals:Augment",
    takes=("symmetry",),
    gamma="optional",
    predictor="relaxed",
  ),
  Constraint(
    "functional",
    f"{_ON_ERROR}:Functional",
    (_EPSILON.at(1e-3),),
    takes=("symmetry",),
    gamma="optional",
    multipliers=True,
    predictor="relaxed",
    quick={"dual_lr": 0.1, "decay_epochs": Length.RUN},
  ),
  Constraint(
    "functional_resilient",
    f"{_ON_ERROR}:ResilientFunctional",
    (_RHO,),
    takes=("symmetry",),
    gamma="optional",
    multipliers=True,
    slack=True,
    predictor="relaxed",
    quick={"dual_lr": 0.1, "decay_epochs": Length.RUN},
  ),
)
