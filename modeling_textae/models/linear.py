"""Linear layers of one input, computed as one."""

from torch import nn


class FusedLinear(nn.Linear):
    """Several linear layers of equal size, without bias, whose outputs stand side by side: one product for all.

    To [`Muon`], which looks at whole matrices, they stay several.

    Args:
        in_features (`int`), out_features (`int`): of each.
        num_parts (`int`): how many.
    """

    def __init__(self, in_features, out_features, num_parts):
        super().__init__(in_features, num_parts * out_features, bias=False)
        self.num_parts = num_parts
