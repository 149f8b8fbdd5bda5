from experiments import runs


def test_portable_results_name_no_folder_of_this_machine():
  value = {"command": "python -m x --workdir=/a/b/run --data_file=/c/d.npz", "n": [1, "/e/f"]}
  found = runs.portable(value)
  assert found == {"command": "python -m x --workdir=run --data_file=d.npz", "n": [1, "f"]}
  assert runs.portable("../data/x.npz 1e-3/2") == "../data/x.npz 1e-3/2"
