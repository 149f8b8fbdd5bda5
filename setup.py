"""Packages `ace_jax` as ace-equivariance; data and experiments run from the checkout."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# PyPI gives the name ace-jax to another project (ace_jax/installation.py).
NAME = "ace-equivariance"
HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "ace_jax" / "__init__.py").read_text())[1]

setup(
  name=NAME,
  version=VERSION,
  description="Learning (approximately) equivariant networks by constrained optimization, in JAX",
  long_description=(HERE / "README.md").read_text(),
  long_description_content_type="text/markdown",
  author="The ace_jax authors",
  license="MIT",
  packages=find_packages(include=["ace_jax", "ace_jax.*"]),
  package_data={"ace_jax": ["py.typed"]},
  python_requires=">=3.11",
  install_requires=[
    "absl-py>=2.1",
    "e3nn-jax>=0.21",
    "filelock>=3.12",
    "flatbuffers>=24.3",
    "flax>=0.12",
    "jax>=0.10,<0.13",
    "jaxtyping>=0.2.36",
    "jraph>=0.0.6.dev0",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "tqdm>=4.66",
  ],
  extras_require={
    "browser": ["playwright>=1.50"],  # the tests of pages, with Debian's chromium
    "dev": [
      # What the tests import beyond the library.
      f"{NAME}[equinox,experiments,images,modelnet,plots,sweep,tensorboard]",
      "grain>=0.2.12",
      "hypothesis>=6.100",
      "ipykernel>=6.29",
      "nbmake>=1.5",
      "pooch>=1.8",
      "pre-commit>=3.7",
      "pyright[nodejs]>=1.1.390",
      "pytest>=8.0",
      "pytest-xdist>=3.6",
      "ruff>=0.9",
      "scipy>=1.13",
    ],
    "docs": [
      f"{NAME}[equinox,plots]",
      "myst-nb>=1.2",
      "sphinx>=8.0",
      "sphinx-book-theme>=1.1.4",
    ],
    "equinox": ["equinox>=0.13"],
    "experiments": ["jinja2>=3.1", "matplotlib>=3.9", "platformdirs>=4.0"],
    "images": ["scikit-learn>=1.5"],
    "modelnet": ["h5py>=3.10"],
    "models": ["e3x==1.0.2", "equinox>=0.13", "mlip==0.2.5"],
    "notebooks": ["jupyterlab>=4.2"],
    "plots": ["matplotlib>=3.9"],
    "qm9": ["qm9pack>=1.0.3"],
    "ray": ["ray>=2.40"],
    "sweep": ["optuna>=4.0"],
    "tensorboard": ["tensorboardX>=2.6"],
  },
  classifiers=[
    "License :: OSI Approved :: MIT License",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
