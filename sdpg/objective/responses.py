"""Says which response each token belongs to, for terms that are functions of whole responses. Imports only torch.

Axes: N tokens, R responses. The tokens may stand in any order.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Responses:
    """The responses of some tokens.

    Attributes:
        owners: (N,) the response of each token, 0 to R-1.
        positions: (N,) the token's place in its response, from 0.
        lengths: (R,) tokens of each response, EOS included.
    """

    owners: Tensor
    positions: Tensor
    lengths: Tensor

    @staticmethod
    def of(lengths: Tensor) -> "Responses":
        """Returns the responses of tokens that stand one response after another, given the responses' lengths."""
        owners = lengths.new_ones(len(lengths)).cumsum(0).sub_(1).repeat_interleave(lengths)
        starts = lengths.cumsum(0) - lengths
        positions = lengths.new_ones(len(owners)).cumsum(0).sub_(1) - starts[owners]
        return Responses(owners, positions, lengths)

    def to(self, device: Any) -> "Responses":
        """Returns the same on another device, without a wait for its other work."""
        return Responses(*(part.to(device, non_blocking=True) for part in (self.owners, self.positions, self.lengths)))

    def take(self, tokens: Tensor) -> "Responses":
        """Returns the responses of some tokens, in their order; sums are whole only if all tokens of a response are."""
        return Responses(self.owners[tokens], self.positions[tokens], self.lengths)

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum of each response's values, (N,) → (R,), with gradient."""
        return values.new_zeros(len(self.lengths)).index_add(0, self.owners, values)

    def mean(self, values: Tensor) -> Tensor:
        """Returns the mean of each response's values, (N,) → (R,), with gradient."""
        return self.sum(values) / self.lengths.to(values.dtype)

    def spread(self, values: Tensor) -> Tensor:
        """Returns for each token the value of its response, (R,) → (N,)."""
        return values[self.owners]

    def at_least(self, values: Tensor, quantile: float) -> Tensor:
        """Returns 1 for the tokens whose value is among the largest share 1 - quantile of their response's, else 0.

        Of T tokens those count that are not below ⌊quantile·T⌋ others; equal values count alike, and NaN never.
        """
        larger = values.argsort(stable=True)
        order = larger[self.owners[larger].argsort(stable=True)]
        starts = self.lengths.cumsum(0) - self.lengths
        cut = starts + (quantile * self.lengths).long().clamp(max=self.lengths.max() - 1).minimum(self.lengths - 1)
        return (values >= self.spread(values[order][cut])).to(values.dtype)
