"""Every fixture has a test."""

HELD = (
  *("segnn_", "egnn_", "egno_", "mpnn_", "radial_field_", "schnet_"),
  *("vector_neurons_", "vn_graph_feature_", "primal_dual_", "nbody_trajectories"),
)


def test_every_file_belongs_to_a_known_family(parity_dir):
  names = [path.stem for path in parity_dir.glob("*.npz")]
  assert [name for name in names if not name.startswith(HELD)] == []


def test_no_family_that_has_a_model_is_missing(parity_dir):
  assert [family for family in HELD if not any(parity_dir.glob(f"{family}*.npz"))] == []
