"""A transformer encoder over the nodes of a graph: not equivariant under rotations.

Reference: Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from ace_jax import graphs, relaxations


class Transformer(nn.Module):
  """Self-attention among all nodes and a perceptron at each, both after a layer norm.

  .. math:: h' = h + MHA(LN(h)), \\qquad h'' = h' + MLP(LN(h'))

  Nodes carry no position of their own, so that it is equivariant under permutations. Attention is
  among all nodes of a sample: edges are not used.

  Attributes:
    hidden: Width of the features; a multiple of `heads`.
    num_layers: Number of layers.
    heads: Number of heads.
    outputs: Numbers predicted at every node.

  Reference: Vaswani et al., 2017; norms before each part: Xiong et al., "On Layer Normalization in
  the Transformer Architecture", ICML 2020.
  """

  hidden: int = 64
  num_layers: int = 4
  heads: int = 2
  outputs: int = 3

  @nn.compact
  def __call__(
    self,
    node_features: Float[Array, "batch nodes features"],
    edge_features: Float[Array, "batch edges scalars"],
    graph: graphs.Topology | graphs.Neighbours,
  ) -> Float[Array, "batch nodes outputs"]:
    """Returns a prediction at every node.

    Args:
      node_features: What the nodes are told.
      edge_features: Not used; here to be called as `MPNN` is.
      graph: Not used.
    """
    del edge_features, graph
    h = relaxations.torch_dense(self.hidden, node_features.shape[-1], name="embedding")(
      node_features
    )
    for i in range(self.num_layers):
      seen = nn.LayerNorm(name=f"norm_{i}_0")(h)
      h = h + nn.MultiHeadDotProductAttention(self.heads, name=f"attention_{i}")(seen)
      seen = nn.LayerNorm(name=f"norm_{i}_1")(h)
      h = h + relaxations.MLP(self.hidden, (2 * self.hidden,), name=f"update_{i}")(seen)
    h = nn.LayerNorm(name="norm_out")(h)
    return relaxations.MLP(self.outputs, (self.hidden,), name="decoder")(h)
